//! A validating JSON reader (RFC 8259) for one object: it visits the top-level members in one pass.
//!
//! The reader builds no tree, and validates skipped values as strictly as visited ones. It does not
//! recurse: each nesting level costs one bit, up to 128 levels, the limit of serde_json. Each `skip_*`
//! function takes the rest of the body, and returns what follows the skipped element. It returns `None`
//! if the element is missing.
//!
//! Two inputs are valid by the grammar, although some parsers reject them. A number may have any size,
//! because no number is converted here. A string may hold an unpaired surrogate. If such a string is
//! skipped, it is accepted. If it is read, the body is rejected.
//!
//! Every poll of a live resource is read here. Therefore strings and indentation are read eight bytes at
//! a time, and the layout that upstreams use is tried first. `inline` attributes follow measurements.

/// Refers to a string in the body, still escaped.
#[derive(Clone, Copy)]
pub(super) struct JsonStr<'b> {
    /// Begins at the first character of the string, and ends at the end of the body.
    from: &'b [u8],
    len: usize,
    has_escapes: bool,
}

impl JsonStr<'_> {
    /// Calls `read` with the unescaped string. `None` if the string is not valid Unicode.
    #[inline(always)]
    pub(super) fn read<T>(self, read: impl Fn(&[u8]) -> T) -> Option<T> {
        let raw = self.from.get(..self.len)?;
        if self.has_escapes {
            return unescaped(raw).map(|text| read(text.as_bytes()));
        }
        Some(read(raw))
    }
}

#[cold]
fn unescaped(raw: &[u8]) -> Option<String> {
    serde_json::from_slice(&[b"\"", raw, b"\""].concat()).ok()
}

/// Calls `visit_member` with each top-level member: its name, and its value if that is a string.
///
/// `None` if the body is not one JSON object, or if `visit_member` returns `None`. The visited members
/// count only if this function returns `Some`, because an error may follow them.
pub(super) fn visit<'b>(
    body: &'b [u8],
    mut visit_member: impl FnMut(JsonStr<'b>, Option<JsonStr<'b>>) -> Option<()>,
) -> Option<()> {
    let mut rest = skip_space(skip_space(body).strip_prefix(b"{")?);
    if let [b'}', after @ ..] = rest {
        return skip_space(after).is_empty().then_some(());
    }
    loop {
        let (name, after) = string(rest)?;
        rest = skip_colon(after)?;
        let mut value = None;
        rest = match rest {
            [b'"', ..] => {
                let (text, after) = string(rest)?;
                value = Some(text);
                after
            }
            [b'{' | b'[', ..] => skip_nested(rest)?,
            _ => skip_scalar(rest)?,
        };
        visit_member(name, value)?;
        if let Some(next @ [b'"', ..]) = rest.strip_prefix(b",\n  ") {
            rest = next;
            continue;
        }
        rest = match skip_space(rest) {
            [b',', after @ ..] => skip_space(after),
            [b'}', after @ ..] => return skip_space(after).is_empty().then_some(()),
            _ => return None,
        };
    }
}

/// Skips an object or array with its contents.
fn skip_nested(mut rest: &[u8]) -> Option<&[u8]> {
    let mut open = Levels::default();
    'value: loop {
        match rest {
            [b'"', ..] => (_, rest) = string(rest)?,
            [b'{', after @ ..] => {
                open.push(true)?;
                rest = skip_space(after);
                if !rest.starts_with(b"}") {
                    rest = skip_name(rest)?;
                    continue 'value;
                }
            }
            [b'[', after @ ..] => {
                open.push(false)?;
                rest = skip_space(after);
                if !rest.starts_with(b"]") {
                    continue 'value;
                }
            }
            _ => rest = skip_scalar(rest)?,
        }
        // After a value follows a comma, or the end of its container, which ends a value in turn.
        while !open.is_empty() {
            rest = match skip_space(rest) {
                [b',', after @ ..] => {
                    rest = skip_space(after);
                    if open.in_object() {
                        rest = skip_name(rest)?;
                    }
                    continue 'value;
                }
                [b'}', after @ ..] if open.in_object() => after,
                [b']', after @ ..] if !open.in_object() => after,
                _ => return None,
            };
            open.pop();
        }
        return Some(rest);
    }
}

/// Skips a member's name and its colon.
#[inline(always)]
fn skip_name(rest: &[u8]) -> Option<&[u8]> {
    let (_, after) = string(rest)?;
    skip_colon(after)
}

#[inline(always)]
fn skip_colon(rest: &[u8]) -> Option<&[u8]> {
    if let Some(after) = rest.strip_prefix(b": ") {
        return Some(skip_space(after));
    }
    let after = skip_space(rest).strip_prefix(b":")?;
    Some(skip_space(after))
}

/// Reads a string; returns it with what follows.
fn string(rest: &[u8]) -> Option<(JsonStr<'_>, &[u8])> {
    let from = rest.strip_prefix(b"\"")?;
    let Some(after) = skip_ascii_string(from) else {
        return slow_string(from);
    };
    let text = JsonStr {
        from,
        len: from.len() - after.len() - 1,
        has_escapes: false,
    };
    Some((text, after))
}

/// Skips the rest of a string with its closing quote, if it is ASCII without escapes.
fn skip_ascii_string(mut rest: &[u8]) -> Option<&[u8]> {
    while let Some((bytes, after)) = rest.split_first_chunk() {
        let word = u64::from_le_bytes(*bytes);
        let ends = string_end_marks(word) | word & TOP_BITS;
        if ends != 0 {
            return rest[leading_zero_bytes(ends)..].strip_prefix(b"\"");
        }
        rest = after;
    }
    None
}

/// Reads a string that may hold escapes or non-ASCII, or that ends near the end of the body.
#[inline(never)]
fn slow_string(from: &[u8]) -> Option<(JsonStr<'_>, &[u8])> {
    let mut rest = from;
    let mut has_escapes = false;
    loop {
        rest = match skip_string_bytes(rest) {
            [b'"', after @ ..] => {
                let len = from.len() - after.len() - 1;
                std::str::from_utf8(&from[..len]).ok()?;
                let text = JsonStr {
                    from,
                    len,
                    has_escapes,
                };
                return Some((text, after));
            }
            [
                b'\\',
                b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't',
                after @ ..,
            ] => after,
            [b'\\', b'u', a, b, c, d, after @ ..]
                if [a, b, c, d].iter().all(|digit| digit.is_ascii_hexdigit()) =>
            {
                after
            }
            _ => return None,
        };
        has_escapes = true;
    }
}

/// Skips to the next quote, backslash or control character, or to the end.
fn skip_string_bytes(mut rest: &[u8]) -> &[u8] {
    while let Some((bytes, after)) = rest.split_first_chunk() {
        let ends = string_end_marks(u64::from_le_bytes(*bytes));
        if ends != 0 {
            return &rest[leading_zero_bytes(ends)..];
        }
        rest = after;
    }
    let is_end = |byte: &u8| matches!(byte, b'"' | b'\\' | 0..0x20);
    let len = rest.iter().position(is_end).unwrap_or(rest.len());
    &rest[len..]
}

/// Skips a literal or a number.
#[inline(always)]
fn skip_scalar(rest: &[u8]) -> Option<&[u8]> {
    match rest.first()? {
        b'n' => rest.strip_prefix(b"null"),
        b't' => rest.strip_prefix(b"true"),
        b'f' => rest.strip_prefix(b"false"),
        _ => skip_number(rest),
    }
}

#[inline(always)]
fn skip_number(rest: &[u8]) -> Option<&[u8]> {
    let rest = rest.strip_prefix(b"-").unwrap_or(rest);
    let mut rest = match rest.strip_prefix(b"0") {
        Some(after) => after,
        None => skip_digits(rest)?,
    };
    if let [b'.', after @ ..] = rest {
        rest = skip_digits(after)?;
    }
    if let [b'e' | b'E', b'+' | b'-', after @ ..] | [b'e' | b'E', after @ ..] = rest {
        rest = skip_digits(after)?;
    }
    Some(rest)
}

/// Skips one or more digits.
fn skip_digits(rest: &[u8]) -> Option<&[u8]> {
    let len = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (len > 0).then(|| &rest[len..])
}

/// Skips whitespace, if any.
fn skip_space(mut rest: &[u8]) -> &[u8] {
    while let [b' ' | b'\t' | b'\n' | b'\r', after @ ..] = rest {
        rest = after;
        // The byte is usually a line feed, and indentation follows it.
        if let Some(bytes) = rest.first_chunk() {
            let others = u64::from_le_bytes(*bytes) ^ each(b' ');
            rest = &rest[leading_zero_bytes(others)..];
        }
    }
    rest
}

/// Records the open objects and arrays, one bit each, innermost last. A set bit is an object.
///
/// The highest set bit marks the end of the record.
struct Levels(u128);

impl Default for Levels {
    /// Returns a record without open levels.
    fn default() -> Self {
        Self(1)
    }
}

impl Levels {
    /// Opens a level. `None` if 127 levels are already open.
    fn push(&mut self, is_object: bool) -> Option<()> {
        if self.0.leading_zeros() == 0 {
            return None;
        }
        self.0 = self.0 << 1 | u128::from(is_object);
        Some(())
    }

    fn pop(&mut self) {
        self.0 >>= 1;
    }

    fn in_object(&self) -> bool {
        self.0 & 1 == 1
    }

    fn is_empty(&self) -> bool {
        self.0 == 1
    }
}

const TOP_BITS: u64 = each(0x80);

/// Returns a word of eight times this byte.
const fn each(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
}

/// Sets the top bit of each byte that ends a run of plain characters: a backslash, a quote or a control
/// character. The latter two are below 0x21 after a flip of bit 0x02.
///
/// Only the first mark is reliable, because the subtraction borrows from the bytes after it.
fn string_end_marks(word: u64) -> u64 {
    let backslash = (word ^ each(b'\\')).wrapping_sub(each(1));
    let below = (word ^ each(0x02)).wrapping_sub(each(0x21));
    (backslash | below) & !word & TOP_BITS
}

/// Counts the zero bytes of a little-endian word before its first other byte.
fn leading_zero_bytes(word: u64) -> usize {
    word.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    /// Returns the members of an object: the names, and the values that are strings.
    fn members(body: &[u8]) -> Option<Vec<(String, Option<String>)>> {
        let own =
            |string: JsonStr<'_>| string.read(|text| String::from_utf8(text.to_vec()).unwrap());
        let mut members = Vec::new();
        visit(body, |name, value| {
            let value = match value {
                Some(value) => Some(own(value)?),
                None => None,
            };
            members.push((own(name)?, value));
            Some(())
        })?;
        Some(members)
    }

    fn is_object(body: impl AsRef<[u8]>) -> bool {
        visit(body.as_ref(), |_, _| Some(())).is_some()
    }

    /// Returns bodies with the value at every kind of position, in several layouts.
    fn in_every_position(value: &[u8]) -> Vec<Vec<u8>> {
        let places = [
            "{\"a\":V}",
            "{\"a\": V}",
            "\r\n{ \"a\"\t:\n\n  V \t}\n",
            "{\n  \"a\": V,\n  \"b\": 0\n}\n",
            "{\n  \"a\": 0,\n  \"b\": V\n}\n",
            "{\"a\":[V]}",
            "{\"a\":[V,0]}",
            "{\"a\": [\n    0,\n    V\n  ]\n}",
            "{\"a\":{\"b\":V}}",
            "{\"a\": {\n    \"b\": 0,\n    \"c\": V,\n    \"d\": 0\n  }\n}",
            "{\"a\":[[{\"b\":[V]},0],0]}",
        ];
        let fill = |place: &str| {
            let (before, after) = place.split_once('V').unwrap();
            [before.as_bytes(), value, after.as_bytes()].concat()
        };
        places.map(fill).to_vec()
    }

    #[test]
    fn members_are_visited_in_order() {
        let body = r#" { "a":"b", "":"", "\u0061":"\"\\\/\b\f\n\r\tA\u00e9\uD83E\udd80é🦀",
            "c":1, "d":null, "e":["f"], "g":{"h":"i"}, "long name, of two words":"as long a text" } "#;
        let text = |text: &str| Some(text.to_owned());
        let expected = [
            ("a", text("b")),
            ("", text("")),
            ("a", text("\"\\/\u{8}\u{c}\n\r\tAé🦀é🦀")),
            ("c", None),
            ("d", None),
            ("e", None),
            ("g", None),
            ("long name, of two words", text("as long a text")),
        ];
        let expected = expected.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(members(body.as_bytes()), Some(expected.to_vec()));
        assert_eq!(members(b"{}"), Some(vec![]));
        assert_eq!(members(b" { \n } "), Some(vec![]));
    }

    #[test]
    fn valid_values_are_accepted_in_every_position() {
        let one_word = r#"
            0 -0 10 -1.50 0.0e0 1E+2 1e-02 1e999 12345678901234567890123456789012345678901234567890
            null true false "" "\ud83e\udd80" [] {} [[],{},[[]]] {"a":{},"a":[]}
        "#;
        let others = [
            "\" \\u0000\\uFFFF\\/ \"",
            "\"\u{7f}\u{80}\u{7ff}é\u{ffff}\u{10ffff}\"",
            "[ ]",
            "{\n}",
        ];
        let values = one_word.split_whitespace().chain(others);
        for value in values {
            for body in in_every_position(value.as_bytes()) {
                let shown = String::from_utf8_lossy(&body);
                assert!(is_object(&body), "{shown}");
            }
        }
    }

    #[test]
    fn invalid_values_are_rejected_in_every_position() {
        let one_word = r#"
            - +1 01 -01 00 1. .5 -.5 1.e1 1e 1e+ 1E- 1e1.5 1e+-1 --1 1- 0x1 1_0 1, ,1 NaN Infinity
            -Infinity nul nulll Null tru fals f undefined a 'a' " "\" "\ "\x" "\u" "\u123" "\u123g"
            "\u+123" "\U0061" "\a" "a"b" "a""b" [ ] [1 [1, [1,] [,1] [,] [1} { {] {,} {"b"} {"b":}
            {"b":1,} {b:1} {1:1} /**/1
        "#;
        let others: [&[u8]; 10] = [
            b"1 0",
            b"\"\\ \"",
            b"\"\0\"",
            b"\"\x1f\"",
            b"\"a\nb\"",
            b"\"a\tb\"",
            b"\"a\" \"b\"",
            b"[1 2]",
            b"{\"b\" 1}",
            b"\xef\xbb\xbf1",
        ];
        let values = one_word.split_whitespace().map(str::as_bytes).chain(others);
        for value in values {
            for body in in_every_position(value) {
                let shown = String::from_utf8_lossy(&body);
                assert!(!is_object(&body), "{shown}");
            }
        }
        // Whitespace alone is valid in an array.
        for byte in (0..=u8::MAX).filter(|byte| !b" \t\n\r".contains(byte)) {
            let alone = [byte];
            let is_valid = byte.is_ascii_digit();
            for body in in_every_position(&alone) {
                assert_eq!(is_object(&body), is_valid, "{}", alone.escape_ascii());
            }
        }
    }

    #[test]
    fn a_body_is_exactly_one_object() {
        for body in ["{}", "\t{}\r\n ", "{\"\":0}"] {
            assert!(is_object(body), "{body}");
        }
        let bodies = [
            "",
            " ",
            "\n\n",
            "null",
            "0",
            "\"a\"",
            "[]",
            "[{}]",
            "{",
            "}",
            "{}{}",
            "{},",
            "{}x",
            "{} 0",
            "{}\0",
            "\0{}",
            "\u{feff}{}",
            "{}\u{feff}",
            "\u{a0}{}",
            "\u{b}{}",
            "{}\u{c}",
            "{,}",
            "{\"a\"}",
            "{\"a\":}",
            "{\"a\": }",
            "{\"a\":1,}",
            "{,\"a\":1}",
            "{\"a\":1 \"b\":2}",
            "{\"a\":1,,\"b\":2}",
            "{\"a\":1;\"b\":2}",
            "{\"a\"::1}",
            "{\"a\",1}",
            "{\"a\":1]",
            "{\"a\":1}}",
            "{\"a\":1,\n  }",
            "{\"a\":1,\n  b\":2}",
        ];
        for body in bodies {
            assert!(!is_object(body), "{body}");
        }
    }

    #[test]
    fn a_truncated_body_is_rejected() {
        let body = "{\n  \"a\": \"b\\n\\u00e9é\",\n  \"c\": [-1.5e+3, {\"d\": {}}, [true, null]],\n  \
                    \"long enough for two words\": \"and this one as well\"\n}";
        assert!(is_object(body));
        for cut in 0..body.len() {
            assert!(!is_object(&body.as_bytes()[..cut]), "{cut}");
        }
        for after in 1..=u8::MAX {
            let body = [body.as_bytes(), &[after]].concat();
            let is_space = matches!(after, b' ' | b'\t' | b'\n' | b'\r');
            assert_eq!(is_object(&body), is_space, "{after}");
        }
    }

    /// Tries every length, position and distance to the end, because words begin anywhere.
    #[test]
    fn a_string_is_read_the_same_at_every_alignment() {
        let special: [(&[u8], Option<&str>); 15] = [
            (b"\\\"", Some("\"")),
            (b"\\\\", Some("\\")),
            (b"\\u005c", Some("\\")),
            (b"!", Some("!")),
            (b"#", Some("#")),
            (b"[]", Some("[]")),
            (b"\x7f", Some("\x7f")),
            ("é".as_bytes(), Some("é")),
            ("🦀".as_bytes(), Some("🦀")),
            (b"\xa2", None),
            (b"\xdc", None),
            (b"\x1f", None),
            (b"\0", None),
            (b"\"", None),
            (b"\\", None),
        ];
        for len in 0..20 {
            for at in 0..=len {
                let (before, after) = ("a".repeat(at), "b".repeat(len - at));
                for (raw, expected) in special {
                    let text = [before.as_bytes(), raw, after.as_bytes()].concat();
                    // A lone backslash escapes the next character.
                    let expected = match (raw, after.as_str()) {
                        (b"\\", "b") => Some("\u{8}"),
                        (b"\\", after) if !after.is_empty() => continue,
                        _ => expected,
                    };
                    let after = if raw == b"\\" { "" } else { after.as_str() };
                    let expected =
                        expected.map(|expected| [before.as_str(), expected, after].concat());
                    for end in ["}", ",\"c\":0}", "                }"] {
                        let body = [b"{\"a\":\"", &*text, b"\"", end.as_bytes()].concat();
                        let value = members(&body).map(|members| members[0].1.clone());
                        assert_eq!(value, expected.clone().map(Some), "{}", body.escape_ascii());
                        let body = [b"{\"", &*text, b"\":0", end.as_bytes()].concat();
                        let name = members(&body).map(|members| members[0].0.clone());
                        assert_eq!(name, expected, "{}", body.escape_ascii());
                    }
                }
            }
        }
    }

    #[test]
    fn invalid_utf8_is_rejected_in_every_string() {
        let broken: [&[u8]; 10] = [
            b"\x80",
            b"\xff",
            b"\xc3",
            b"\xc0\x80",
            b"\xe2\x82",
            b"\xe0\x80\x80",
            b"\xed\xa0\x80",
            b"\xf0\x80\x80\x80",
            b"\xf4\x90\x80\x80",
            b"\xc3\\u0061",
        ];
        for raw in broken {
            let text = [b"\"", raw, b"\""].concat();
            for body in in_every_position(&text) {
                assert!(!is_object(&body), "{}", body.escape_ascii());
            }
            for body in [
                [b"{\"", raw, b"\":0}"].concat(),
                [b"{\"a\":{\"", raw, b"\":0}}"].concat(),
                [b"{", raw, b"}"].concat(),
                [b"{}", raw].concat(),
            ] {
                assert!(!is_object(&body), "{}", body.escape_ascii());
            }
        }
    }

    #[test]
    fn an_unpaired_surrogate_is_skipped_but_not_read() {
        for half in [
            r"\ud83e",
            r"\uDD80",
            r"\udd80\ud83e",
            r"\ud83e\u0061",
            r"\ud83ex",
        ] {
            let body = format!("{{\"a\":\"{half}\",\"b\":[\"{half}\",{{\"{half}\":0}}]}}");
            assert!(is_object(&body), "{body}");
            assert_eq!(members(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn depth_is_limited_and_brackets_must_match() {
        let nested = |levels: &[bool], flaw: Option<usize>| {
            let mut body = b"{\"a\":".to_vec();
            for is_object in levels {
                body.extend_from_slice(if *is_object { b"{\"b\":" } else { b"[" });
            }
            body.push(b'0');
            for (level, is_object) in levels.iter().enumerate().rev() {
                let is_object = *is_object != (flaw == Some(level));
                body.push(if is_object { b'}' } else { b']' });
            }
            body.push(b'}');
            body
        };
        for depth in [1, 2, 62, 63, 64, 65, 126, 127, 128, 129, 100_000] {
            let kinds: [fn(usize) -> bool; 4] = [
                |_| true,
                |_| false,
                |level| level % 2 == 0,
                |level| level % 3 == 0,
            ];
            for kind in kinds {
                let levels: Vec<bool> = (0..depth).map(kind).collect();
                // The limit is 127 levels and the object around them.
                assert_eq!(is_object(nested(&levels, None)), depth < 128, "{depth}");
                for flaw in [0, depth / 2, depth - 1] {
                    assert!(!is_object(nested(&levels, Some(flaw))), "{depth}, {flaw}");
                }
                let whole = nested(&levels, None);
                assert!(!is_object(&whole[..whole.len() - 1]), "{depth}");
                assert!(!is_object([&*whole, b"}"].concat()), "{depth}");
            }
        }
        assert!(!is_object(format!("{{\"a\":{}", "[".repeat(100_000))));
        assert!(!is_object(format!("{{\"a\":{}", "{\"a\":".repeat(100_000))));
    }

    /// Parses the body with serde_json.
    fn parse_with_serde(body: &[u8]) -> Option<Value> {
        serde_json::from_slice(body).ok().filter(Value::is_object)
    }

    fn json() -> impl Strategy<Value = String> {
        let leaf = prop::sample::select(vec![
            "0",
            "-1.5",
            "2e3",
            "7",
            "null",
            "true",
            "\"\"",
            "\"a\"",
            "\"status\"",
            "\"\\u0061\"",
            "\"a text that is longer than a word\"",
            "\"\\\\\\\"\"",
            "\"é\"",
            "\"a\\n🦀\"",
        ]);
        let space = || prop::sample::select(vec!["", "", " ", "\n", "\n  ", "\t\r", "          "]);
        let name = prop::sample::select(vec![
            "\"a\"",
            "\"\"",
            "\"\\u0061\"",
            "\"status\"",
            "\"an_id\"",
        ]);
        leaf.prop_map(str::to_owned)
            .prop_recursive(5, 40, 5, move |inner| {
                let item = (space(), inner.clone(), space())
                    .prop_map(|(a, item, b)| [a, &item, b].concat());
                let member = (space(), name.clone(), space(), space(), inner, space())
                    .prop_map(|(a, name, b, c, value, d)| [a, name, b, ":", c, &value, d].concat());
                prop_oneof![
                    prop::collection::vec(item, 0..5)
                        .prop_map(|items| format!("[{}]", items.join(","))),
                    prop::collection::vec(member, 0..5)
                        .prop_map(|all| format!("{{{}}}", all.join(","))),
                ]
            })
    }

    proptest! {
        /// Both accept the same texts, except for numbers beyond `f64`, unpaired surrogates and more
        /// than 128 levels. This strategy generates none of these.
        #[test]
        fn it_agrees_with_serde_json(
            value in json(),
            wrap in prop::bool::weighted(0.7),
            change in prop::option::of((
                any::<prop::sample::Index>(),
                0usize..3,
                prop::sample::select(vec![
                    "{", "}", "[", "]", ":", ",", "\"", "\\", " ", "\n", "7", "-", ".", "e", "n", "\0", "é",
                    ",\n  \"b\": 7", "\"b\":7,",
                ]),
            )),
        ) {
            let mut body = if wrap { format!("{{\"a\": {value},\n  \"b\": \"c\"}}") } else { value };
            if let Some((at, cut, insert)) = change {
                let at = at.index(body.len());
                if let (true, Some(end)) = (body.is_char_boundary(at), at.checked_add(cut))
                    && end <= body.len()
                    && body.is_char_boundary(end)
                {
                    body.replace_range(at..end, insert);
                }
            }
            let ours = members(body.as_bytes());
            let theirs = parse_with_serde(body.as_bytes());
            prop_assert_eq!(ours.is_some(), theirs.is_some(), "{}", body);
            let Some((ours, theirs)) = ours.zip(theirs) else {
                return Ok(());
            };
            // In a `Value` the last member of a name counts.
            let ours: std::collections::BTreeMap<_, _> = ours.into_iter().collect();
            let theirs: std::collections::BTreeMap<_, _> = theirs
                .as_object()
                .unwrap()
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().map(str::to_owned)))
                .collect();
            prop_assert_eq!(ours, theirs, "{}", body);
        }

        #[test]
        fn arbitrary_bytes_are_accepted_only_if_serde_json_accepts_them(body in prop::collection::vec(any::<u8>(), 0..64)) {
            let body = [b"{\"a\":", &*body].concat();
            prop_assert!(members(&body).is_none() || parse_with_serde(&body).is_some());
        }
    }
}
