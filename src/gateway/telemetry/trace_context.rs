//! The trace that a request belongs to (W3C Trace Context, level 1).

use hyper::HeaderMap;

/// Returns the trace id of `traceparent`: 32 hexadecimal digits. `None` if the header is missing, occurs
/// twice, or is malformed (section 3.2).
pub(crate) fn trace_id(headers: &HeaderMap) -> Option<&str> {
    let mut parents = headers.get_all("traceparent").iter();
    let (parent, None) = (parents.next()?.to_str().ok()?, parents.next()) else {
        return None;
    };
    let mut fields = parent.splitn(5, '-');
    let version = digits(fields.next()?, 2)?;
    let trace = digits(fields.next()?, 32)?;
    let parent = digits(fields.next()?, 16)?;
    digits(fields.next()?, 2)?;
    // Only versions after 00 may have more fields (section 3.2.4).
    let has_more_fields = fields.next().is_some();
    let is_zero = |id: &str| id.bytes().all(|digit| digit == b'0');
    let valid = version != "ff" && !(version == "00" && has_more_fields);
    (valid && !is_zero(trace) && !is_zero(parent)).then_some(trace)
}

/// Returns `text` if it is `count` hexadecimal digits in lower case.
fn digits(text: &str, count: usize) -> Option<&str> {
    let hex = |digit: u8| matches!(digit, b'0'..=b'9' | b'a'..=b'f');
    (text.len() == count && text.bytes().all(hex)).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hyper::header::HeaderValue;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    fn read(parents: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for parent in parents {
            headers.append("traceparent", HeaderValue::from_str(parent).unwrap());
        }
        trace_id(&headers).map(ToOwned::to_owned)
    }

    #[test]
    fn a_traceparent_of_any_version_names_its_trace() {
        for (version, rest) in [
            ("00", "00"),
            ("00", "01"),
            ("cc", "01"),
            ("01", "ff-more-of-it"),
        ] {
            let parent = format!("{version}-{TRACE}-00f067aa0ba902b7-{rest}");
            assert_eq!(read(&[&parent]).as_deref(), Some(TRACE), "{parent}");
        }
    }

    #[test]
    fn a_malformed_traceparent_names_no_trace() {
        let parent = "00f067aa0ba902b7";
        let zeros = "0".repeat(32);
        for malformed in [
            String::new(),
            TRACE.to_owned(),
            format!("ff-{TRACE}-{parent}-01"),
            format!("00-{zeros}-{parent}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{parent}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{parent}-01"),
            format!("00-{TRACE}-{}-01", &parent[1..]),
            format!("00-{}-{parent}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", parent.to_uppercase()),
            format!("00-{}-{parent}-01", TRACE.replace('f', "g")),
            format!("0-{TRACE}-{parent}-01"),
            format!("000-{TRACE}-{parent}-01"),
            format!("0g-{TRACE}-{parent}-01"),
            format!("00-{TRACE}-{parent}"),
            format!("00-{TRACE}-{parent}-"),
            format!("00-{TRACE}-{parent}-1"),
            format!("00-{TRACE}-{parent}-0x"),
            format!("00-{TRACE}-{parent}-01-"),
            format!("00-{TRACE}-{parent}-01-more"),
            format!("01-{TRACE}-{parent}-01more"),
            format!("00_{TRACE}_{parent}_01"),
            format!("00-{TRACE}-{parent}-01, 00-{TRACE}-{parent}-01"),
        ] {
            assert_eq!(read(&[&malformed]), None, "{malformed}");
        }
        let one = format!("00-{TRACE}-{parent}-01");
        assert_eq!(read(&[&one, &one]), None);
        assert_eq!(read(&[]), None);
    }
}
