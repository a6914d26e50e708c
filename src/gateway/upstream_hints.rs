//! What an upstream says about time: when to ask again.

use std::time::{Duration, SystemTime};

use hyper::header::{DATE, HeaderMap, HeaderValue, RETRY_AFTER};

/// How long a refusal asks everybody to keep silent: the shorter of `retry-after-ms` and
/// `Retry-After` (RFC 9110 section 10.2.3; a date counts from the answer's own `Date`, or from `now`).
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let precise = headers.get("retry-after-ms").and_then(milliseconds);
    let standard = headers.get(RETRY_AFTER).and_then(|value| {
        let value = value.to_str().ok()?.trim();
        if let Ok(seconds) = value.parse() {
            return Some(Duration::from_secs(seconds));
        }
        let then = httpdate::parse_http_date(value).ok()?;
        let date = headers.get(DATE).and_then(|date| date.to_str().ok());
        let date = date.and_then(|date| httpdate::parse_http_date(date).ok());
        then.duration_since(date.unwrap_or(now)).ok()
    });
    let shorter = match (precise, standard) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    };
    shorter.filter(|wait| !wait.is_zero())
}

/// When an upstream wants to be polled again.
pub(super) fn poll_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get("openai-poll-after-ms").and_then(milliseconds)
}

fn milliseconds(value: &HeaderValue) -> Option<Duration> {
    let number: f64 = value.to_str().ok()?.trim().parse().ok()?;
    Duration::try_from_secs_f64(number / 1000.0).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(pairs: &[(&'static str, &'static str)]) -> Option<u128> {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_static(value));
        }
        let now = httpdate::parse_http_date("Sun, 06 Nov 1994 08:49:38 GMT").unwrap();
        retry_after(&headers, now).map(|wait| wait.as_millis())
    }

    #[test]
    fn seconds_milliseconds_and_dates_are_understood() {
        let date = ("date", "Sun, 06 Nov 1994 08:49:37 GMT");
        for (headers, expected) in [
            (vec![("retry-after", "2")], Some(2000)),
            (vec![("retry-after", " 2 ")], Some(2000)),
            (vec![("retry-after-ms", "1500")], Some(1500)),
            (vec![("retry-after-ms", "1500.5")], Some(1500)),
            (
                vec![("retry-after-ms", "1500"), ("retry-after", "2")],
                Some(1500),
            ),
            (
                vec![("retry-after-ms", "2500"), ("retry-after", "2")],
                Some(2000),
            ),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT"), date],
                Some(3000),
            ),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:49:30 GMT"), date],
                None,
            ),
            (
                vec![("retry-after", "Sun, 06 Nov 1994 08:49:40 GMT")],
                Some(2000),
            ),
            (vec![("retry-after", "0")], None),
            (vec![("retry-after", "-1")], None),
            (vec![("retry-after", "soon")], None),
            (vec![("retry-after-ms", "NaN")], None),
            (
                vec![("retry-after-ms", "-5"), ("retry-after", "1")],
                Some(1000),
            ),
            (vec![("retry-after-ms", "1e30")], None),
            (vec![], None),
        ] {
            assert_eq!(after(&headers), expected, "{headers:?}");
        }
    }
}
