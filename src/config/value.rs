//! Values: durations, sizes, counts, words and lists. Each error says what would be right.

use std::ops::RangeInclusive;
use std::time::Duration;

use bytesize::ByteSize;
use toml::de::DeValue;

use super::table::Item;

/// Limits every timeout. It keeps deadlines far from an overflow of the clock.
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// The resolution of a timer.
pub(super) const TICK: Duration = Duration::from_millis(1);

/// Reads a duration within `bounds`, like `"60s"`.
pub(super) fn duration(
    bounds: RangeInclusive<Duration>,
) -> impl FnOnce(Item<'_>) -> Option<Duration> {
    move |item| {
        if let DeValue::Integer(number) = item.value() {
            return item.reject(format!(
                "{number} has no unit; write a duration like \"60s\" or \"100ms\""
            ));
        }
        item.parse("a duration like \"60s\"", |text| {
            parse_duration(text, &bounds)
        })
    }
}

fn parse_duration(text: &str, bounds: &RangeInclusive<Duration>) -> Result<Duration, String> {
    let duration = humantime::parse_duration(text.trim())
        .map_err(|_| format!("{text:?} is not a duration; write one like \"60s\" or \"100ms\""))?;
    if bounds.contains(&duration) {
        return Ok(duration);
    }
    let format_bound = |bound: &Duration| match bound.is_zero() {
        true => "0s".to_owned(),
        false => humantime::format_duration(*bound).to_string(),
    };
    let (min, max) = (format_bound(bounds.start()), format_bound(bounds.end()));
    Err(format!("{text:?} is out of range: from {min} to {max}"))
}

/// Reads a size in bytes within `bounds`, like `"256MiB"` or a plain number.
pub(super) fn size(bounds: RangeInclusive<u64>) -> impl FnOnce(Item<'_>) -> Option<u64> {
    move |item| {
        let written = match item.value() {
            DeValue::Integer(number) => number.to_string(),
            DeValue::String(text) => text.trim().to_owned(),
            DeValue::Float(_)
            | DeValue::Boolean(_)
            | DeValue::Datetime(_)
            | DeValue::Array(_)
            | DeValue::Table(_) => return item.expected("a size like \"256MiB\""),
        };
        match written.parse::<ByteSize>() {
            Ok(ByteSize(bytes)) if bounds.contains(&bytes) => Some(bytes),
            Ok(_) => item.reject(format!(
                "{written:?} is out of range: from {} to {}",
                format_size(*bounds.start()),
                format_size(*bounds.end())
            )),
            Err(_) => item.reject(format!(
                "{written:?} is not a size; write one like \"256MiB\" or \"1GiB\""
            )),
        }
    }
}

/// Writes a size with the largest binary unit that divides it. `ByteSize` itself would round.
pub(super) fn format_size(bytes: u64) -> String {
    [
        (bytesize::GIB, "GiB"),
        (bytesize::MIB, "MiB"),
        (bytesize::KIB, "KiB"),
    ]
    .into_iter()
    .find(|(unit, _)| bytes >= *unit && bytes.is_multiple_of(*unit))
    .map_or_else(
        || format!("{bytes}B"),
        |(unit, word)| format!("{}{word}", bytes / unit),
    )
}

/// Reads `true` or `false`.
pub(super) fn boolean(item: Item<'_>) -> Option<bool> {
    match item.value().as_bool() {
        Some(value) => Some(value),
        None => item.expected("true or false"),
    }
}

/// Limits a count. No process holds more connections or fetches, so a larger number is a mistake.
const MAX_COUNT: usize = 1_000_000;

/// Reads a count of at least 1.
pub(super) fn count(item: Item<'_>) -> Option<usize> {
    let Some(number) = item.value().as_integer() else {
        return item.expected("a whole number");
    };
    match usize::from_str_radix(number.as_str(), number.radix()) {
        Ok(count) if (1..=MAX_COUNT).contains(&count) => Some(count),
        Ok(_) | Err(_) => item.reject(format!("{number} is out of range: from 1 to {MAX_COUNT}")),
    }
}

/// Reads one of `words`.
pub(super) fn word<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(Item<'_>) -> Option<T> {
    move |item| item.parse(&alternatives(words), |text| parse_word(text, words))
}

/// Returns the value of the word `text`.
pub(super) fn parse_word<T: Copy>(text: &str, words: &[(&str, T)]) -> Result<T, String> {
    words
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, value)| *value)
        .ok_or_else(|| format!("{text:?} is not allowed; write {}", alternatives(words)))
}

fn alternatives<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    quoted.join(" or ")
}

/// Reads a string that is not empty.
pub(super) fn string(item: Item<'_>) -> Option<String> {
    item.parse("a string", |text| match text.trim() {
        "" => Err("is empty; write a text".to_owned()),
        _ => Ok(text.to_owned()),
    })
}

/// Reads a list, each element with `read`. Invalid elements are reported and left out.
pub(super) fn list<'n, T>(
    what: &str,
    read: impl Fn(Item<'n>) -> Option<T>,
) -> impl FnOnce(Item<'n>) -> Option<Vec<T>> {
    move |item| Some(item.elements(what)?.into_iter().filter_map(read).collect())
}
