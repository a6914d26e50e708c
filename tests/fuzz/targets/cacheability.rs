//! The cacheability check: a stored response is final, a final one is stored, and any other one has the
//! first reason that applies.
//!
//! The input is a response as text: a status, header lines, an empty line, the body. Alternatively, after
//! a `#`, the bytes choose a response whose result is known in advance. Both are compared with a separate
//! reader, which follows the JSON grammar alone, and with serde_json's `Value`.

#![no_main]

use std::sync::LazyLock;

use arbitrary::{Arbitrary, Unstructured};
use hyper::StatusCode;
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use libfuzzer_sys::fuzz_target;
use stepgate::policy::{self, NoStoreReason, Rule, RuleSpec};

const IDS: [&str; 3] = ["thread_1", "run_1", "step_1"];

/// Holds the built-in rule, and one whose texts need escaping and whose members share a parameter.
static RULES: LazyLock<[Rule; 2]> = LazyLock::new(|| {
    let pair = |member: &str, parameter: &str| (member.to_owned(), parameter.to_owned());
    let odd = Rule::new(RuleSpec {
        name: "odd".into(),
        path: "/a/{a}/b/{b}/c/{c}".into(),
        list: None,
        object: "say \"é\"\n".into(),
        identity: vec![
            pair("", "a"),
            pair("\\\u{1f980}", "b"),
            pair("again", "b"),
            pair("c", "c"),
        ],
        terminal: vec!["\u{7f}fertig/".into(), "".into()],
        query: vec![],
    });
    [Rule::run_step(), odd.expect("a valid rule")]
});

/// Holds a member's name or value, unescaped.
#[derive(Debug, PartialEq, Clone)]
enum Token {
    Text(String),
    /// Stands for a string with an unpaired surrogate, which no Rust string can hold.
    Unpaired,
    /// Stands for any other value.
    Other,
}

/// Reads JSON by RFC 8259. It keeps its own stack, so that it reads texts of any depth.
struct Reader<'t> {
    rest: &'t [u8],
}

impl Reader<'_> {
    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    fn eat(&mut self, word: &[u8]) -> Option<()> {
        self.rest = self.rest.strip_prefix(word)?;
        Some(())
    }

    fn string(&mut self) -> Option<Token> {
        self.eat(b"\"")?;
        let mut units: Vec<u16> = Vec::new();
        let mut plain: Vec<u8> = Vec::new();
        let flush = |plain: &mut Vec<u8>, units: &mut Vec<u16>| -> Option<()> {
            units.extend(std::str::from_utf8(plain).ok()?.encode_utf16());
            plain.clear();
            Some(())
        };
        loop {
            let (first, rest) = self.rest.split_first()?;
            self.rest = rest;
            match first {
                b'"' => break,
                0..0x20 => return None,
                b'\\' => {
                    flush(&mut plain, &mut units)?;
                    let (kind, rest) = self.rest.split_first()?;
                    self.rest = rest;
                    units.push(match kind {
                        b'"' | b'\\' | b'/' => u16::from(*kind),
                        b'b' => 8,
                        b't' => 9,
                        b'n' => 10,
                        b'f' => 12,
                        b'r' => 13,
                        b'u' => {
                            let mut unit = 0;
                            for _ in 0..4 {
                                let (digit, rest) = self.rest.split_first()?;
                                let digit = char::from(*digit).to_digit(16)?;
                                unit = unit * 16 + u16::try_from(digit).ok()?;
                                self.rest = rest;
                            }
                            unit
                        }
                        _ => return None,
                    });
                }
                byte => plain.push(*byte),
            }
        }
        flush(&mut plain, &mut units)?;
        Some(String::from_utf16(&units).map_or(Token::Unpaired, Token::Text))
    }

    fn digits(&mut self) -> Option<()> {
        let count = self.rest.iter().take_while(|b| b.is_ascii_digit()).count();
        self.rest = &self.rest[count..];
        (count > 0).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        if self.rest.starts_with(b"-") {
            self.eat(b"-")?;
        }
        if self.rest.starts_with(b"0") {
            self.eat(b"0")?;
        } else {
            self.digits()?;
        }
        if self.rest.starts_with(b".") {
            self.eat(b".")?;
            self.digits()?;
        }
        if let [b'e' | b'E', rest @ ..] = self.rest {
            self.rest = rest;
            if let [b'+' | b'-', rest @ ..] = self.rest {
                self.rest = rest;
            }
            self.digits()?;
        }
        Some(())
    }

    /// A name and its colon.
    fn name(&mut self) -> Option<Token> {
        self.skip_space();
        let name = self.string()?;
        self.skip_space();
        self.eat(b":")?;
        Some(name)
    }

    /// A whole value; what is open is kept on a stack, `true` for an object.
    fn value(&mut self) -> Option<Token> {
        let mut open: Vec<bool> = Vec::new();
        loop {
            self.skip_space();
            let mut value = Token::Other;
            match self.rest.first()? {
                b'"' => value = self.string()?,
                b't' => self.eat(b"true")?,
                b'f' => self.eat(b"false")?,
                b'n' => self.eat(b"null")?,
                b'[' => {
                    self.eat(b"[")?;
                    self.skip_space();
                    if !self.rest.starts_with(b"]") {
                        open.push(false);
                        continue;
                    }
                    self.eat(b"]")?;
                }
                b'{' => {
                    self.eat(b"{")?;
                    self.skip_space();
                    if !self.rest.starts_with(b"}") {
                        open.push(true);
                        self.name()?;
                        continue;
                    }
                    self.eat(b"}")?;
                }
                _ => self.number()?,
            }
            loop {
                let Some(is_object) = open.last().copied() else {
                    return Some(value);
                };
                value = Token::Other;
                self.skip_space();
                if self.rest.starts_with(b",") {
                    self.eat(b",")?;
                    if is_object {
                        self.name()?;
                    }
                    break;
                }
                self.eat(if is_object { b"}" } else { b"]" })?;
                open.pop();
            }
        }
    }

    /// Returns the members, if the text is one object.
    fn document(mut self) -> Option<Vec<(Token, Token)>> {
        std::str::from_utf8(self.rest).ok()?;
        let mut members = Vec::new();
        self.skip_space();
        self.eat(b"{")?;
        self.skip_space();
        if !self.rest.starts_with(b"}") {
            loop {
                let name = self.name()?;
                members.push((name, self.value()?));
                self.skip_space();
                if !self.rest.starts_with(b",") {
                    break;
                }
                self.eat(b",")?;
            }
        }
        self.eat(b"}")?;
        self.skip_space();
        self.rest.is_empty().then_some(members)
    }
}

/// Returns the members that the check reads, each with its valid texts.
fn checked_members(rule: &Rule) -> Vec<(String, Vec<String>)> {
    let terminal = rule.terminal().map(Into::into).collect();
    let mut members = vec![
        ("object".to_owned(), vec![rule.object().to_owned()]),
        ("status".to_owned(), terminal),
    ];
    let ids = rule
        .identity()
        .map(|(member, index)| (member.to_owned(), vec![IDS[index].to_owned()]));
    members.extend(ids);
    members
}

/// Returns the expected result for a body from its members.
///
/// An unpaired surrogate in a name, or in a member that the check reads, rejects the whole body.
fn expected_result(rule: &Rule, members: Option<&[(Token, Token)]>) -> Result<(), NoStoreReason> {
    let members = members.ok_or(NoStoreReason::NotJson)?;
    let checked = checked_members(rule);
    let values = |name: &String| -> Vec<&Token> {
        let named = members
            .iter()
            .filter(|(found, _)| *found == Token::Text(name.clone()));
        named.map(|(_, value)| value).collect()
    };
    let is_unpaired = |value: &&Token| **value == Token::Unpaired;
    if members
        .iter()
        .map(|(name, _)| name)
        .any(|name| is_unpaired(&name))
        || checked
            .iter()
            .any(|(name, _)| values(name).iter().any(is_unpaired))
    {
        return Err(NoStoreReason::NotJson);
    }
    if checked.iter().any(|(name, _)| values(name).len() > 1) {
        return Err(NoStoreReason::DuplicateMember);
    }
    let is_valid = |(name, words): &(String, Vec<String>)| matches!(values(name)[..], [Token::Text(word)] if words.contains(word));
    let [object, status, ids @ ..] = &checked[..] else {
        unreachable!("every rule has an object and a status");
    };
    match () {
        () if !is_valid(object) => Err(NoStoreReason::WrongObject),
        () if !ids.iter().all(is_valid) => Err(NoStoreReason::WrongId),
        () if !is_valid(status) => Err(NoStoreReason::NotFinal),
        () => Ok(()),
    }
}

/// Returns whether the body is final by serde_json's `Value`. `None` if it cannot be parsed: it has at most
/// 128 levels, no number beyond `f64` and no unpaired surrogate.
fn final_by_value(rule: &Rule, body: &[u8]) -> Option<bool> {
    let value: serde_json::Value = serde_json::from_slice(body).ok()?;
    Some(checked_members(rule).iter().all(|(name, words)| {
        let found = value.get(name).and_then(|value| value.as_str());
        found.is_some_and(|found| words.iter().any(|word| word == found))
    }))
}

fn trimmed(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_ascii_whitespace())
}

/// Returns whether status or headers forbid storing.
fn head_forbids(status: StatusCode, headers: &HeaderMap, honor_no_store: bool) -> bool {
    let values = |name: &str| -> Vec<String> {
        let all = headers.get_all(name).iter();
        let text = all.map(|v| String::from_utf8_lossy(v.as_bytes()).to_ascii_lowercase());
        text.collect()
    };
    let no_store = values("cache-control")
        .iter()
        .flat_map(|value| value.split(','))
        .map(|directive| directive.split('=').next().unwrap_or_default())
        .any(|name| trimmed(name) == "no-store");
    let hit = values("x-portkey-cache-status")
        .iter()
        .any(|v| v.contains("hit"));
    status.as_u16() != 200
        || values("content-encoding")
            .iter()
            .any(|coding| trimmed(coding) != "identity")
        || values("age").iter().any(|age| trimmed(age) != "0")
        || hit
        || (honor_no_store && no_store)
}

fn check(rule: &Rule, response: &Response, honor_no_store: bool) -> Result<(), NoStoreReason> {
    let Response {
        status,
        headers,
        body,
    } = response;
    let result = policy::check(rule, &IDS, *status, headers, body, honor_no_store);
    let shown = || String::from_utf8_lossy(body).into_owned();
    let forbidden = head_forbids(*status, headers, honor_no_store);
    if forbidden {
        assert!(
            result.is_err(),
            "stored although its headers forbid it: {headers:?}"
        );
        return result;
    }
    let members = Reader { rest: body }.document();
    assert_eq!(
        result,
        expected_result(rule, members.as_deref()),
        "{}",
        shown()
    );
    if result.is_ok() {
        assert_ne!(
            final_by_value(rule, body),
            Some(false),
            "stored: {}",
            shown()
        );
    }
    result
}

struct Response {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// Parses `200`, `name: value` lines, an empty line and the body.
fn read(data: &[u8]) -> Option<Response> {
    let end = data.windows(2).position(|pair| pair == b"\n\n")?;
    let mut lines = data[..end].split(|byte| *byte == b'\n');
    let mut headers = HeaderMap::new();
    let status = StatusCode::from_bytes(lines.next()?).ok()?;
    for line in lines {
        let colon = line.iter().position(|byte| *byte == b':')?;
        headers.append(
            HeaderName::from_bytes(&line[..colon]).ok()?,
            HeaderValue::from_bytes(&line[colon + 1..]).ok()?,
        );
    }
    Some(Response {
        status,
        headers,
        body: data[end + 2..].to_vec(),
    })
}

/// Names what is wrong with a generated body.
#[derive(Arbitrary, Debug, PartialEq, Clone, Copy)]
enum Flaw {
    Missing,
    OtherText,
    OtherCase,
    NotAString,
    Nested,
    Duplicate,
    Wrapped,
    Trailing,
    Cut,
    BadByte,
    Control,
}

struct Builder<'u, 'd> {
    u: &'u mut Unstructured<'d>,
    out: Vec<u8>,
}

impl Builder<'_, '_> {
    fn choose(&mut self, max: usize) -> usize {
        self.u.int_in_range(0..=max).unwrap_or(0)
    }

    fn space(&mut self) {
        for _ in 0..self.choose(2) {
            let space = b" \t\n\r"[self.choose(3)];
            self.out.push(space);
        }
    }

    /// Writes a text with any valid escaping.
    fn string(&mut self, text: &str) {
        self.out.push(b'"');
        for c in text.chars() {
            let must = matches!(c, '"' | '\\' | '\0'..='\x1f');
            match self.choose(7) {
                0 => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        self.out.extend(format!("\\u{unit:04X}").bytes());
                    }
                }
                1 if matches!(c, '"' | '\\' | '/') => self.out.extend(format!("\\{c}").bytes()),
                _ if must => self.out.extend(format!("\\u{:04x}", u32::from(c)).bytes()),
                _ => self.out.extend(c.to_string().bytes()),
            }
        }
        self.out.push(b'"');
    }

    /// Writes a value that the check does not read, although it may look like one that it reads.
    fn filler(&mut self, depth: usize) {
        match self.choose(if depth < 4 { 9 } else { 5 }) {
            0 => self.out.extend(b"null"),
            1 => self.out.extend(b"false"),
            2 => {
                let number: i64 = self.u.arbitrary().unwrap_or(0);
                self.out.extend(number.to_string().bytes());
            }
            3 => {
                let number = ["-0", "1E400", "0.5e-7", "123456789012345678901234567890"];
                let number = number[self.choose(3)];
                self.out.extend(number.bytes());
            }
            4 => {
                let text: String = self.u.arbitrary().unwrap_or_default();
                self.string(&text);
            }
            5 => self.out.extend(b"\"\\ud800 \\/\""),
            6 => {
                let levels = self.u.int_in_range(0..=300).unwrap_or(0);
                self.out.extend(b"[".repeat(levels));
                self.out.extend(b"]".repeat(levels));
                if levels == 0 {
                    self.out.push(b'0');
                }
            }
            7 => {
                self.out.push(b'[');
                for index in 0..self.choose(3) {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    self.space();
                    self.filler(depth + 1);
                }
                self.out.push(b']');
            }
            _ => {
                self.out.push(b'{');
                let names = ["status", "id", "object", "", "x"];
                for index in 0..self.choose(3) {
                    if index > 0 {
                        self.out.push(b',');
                    }
                    let name = names[self.choose(4)];
                    self.string(name);
                    self.space();
                    self.out.push(b':');
                    self.filler(depth + 1);
                    self.space();
                }
                self.out.push(b'}');
            }
        }
    }

    fn member(&mut self, is_first: bool, name: &str, value: impl FnOnce(&mut Self)) {
        if !is_first {
            self.out.push(b',');
        }
        self.space();
        self.string(name);
        self.space();
        self.out.push(b':');
        self.space();
        value(self);
        self.space();
    }

    /// Writes a body. Returns whether it is final.
    fn body(&mut self, rule: &Rule) -> bool {
        let flaw: Option<Flaw> = self.u.arbitrary().unwrap_or(None);
        let mut members = checked_members(rule);
        for index in 0..members.len() {
            let other = self.choose(members.len() - 1);
            members.swap(index, other);
        }
        let flawed = self.choose(members.len() - 1);
        self.space();
        self.out.push(b'{');
        let mut is_first = true;
        for (index, (name, words)) in members.iter().enumerate() {
            for _ in 0..self.choose(2) {
                // No rule has a member of this name.
                let extra = format!("x{}", self.choose(9));
                self.member(is_first, &extra, |b| b.filler(0));
                is_first = false;
            }
            let word = &words[self.choose(words.len() - 1)];
            let flaw = flaw.filter(|_| index == flawed);
            if flaw == Some(Flaw::Missing) {
                continue;
            }
            self.member(is_first, name, |b| match flaw {
                Some(Flaw::OtherText) => b.string(&format!("{word} ")),
                Some(Flaw::OtherCase) => b.string(&format!("{}X", word.to_uppercase())),
                Some(Flaw::NotAString) => b.out.extend(b"1e999"),
                Some(Flaw::Nested) => {
                    b.out.push(b'[');
                    b.string(word);
                    b.out.push(b']');
                }
                _ => b.string(word),
            });
            is_first = false;
            if flaw == Some(Flaw::Duplicate) {
                self.member(is_first, name, |b| b.string(word));
            }
        }
        self.out.push(b'}');
        self.space();
        match flaw {
            Some(Flaw::Wrapped) => {
                self.out.insert(0, b'[');
                self.out.push(b']');
            }
            Some(Flaw::Trailing) => self.out.push(b'}'),
            Some(Flaw::Cut) => {
                let whole = self.out.trim_ascii_end().len();
                let left = self.choose(whole - 1);
                self.out.truncate(left);
            }
            Some(Flaw::BadByte) => {
                let at = self.choose(self.out.len());
                self.out.insert(at, 0xff);
            }
            Some(Flaw::Control) => {
                let at = self.choose(self.out.len());
                self.out.insert(at, 0);
            }
            Some(
                Flaw::Missing
                | Flaw::OtherText
                | Flaw::OtherCase
                | Flaw::NotAString
                | Flaw::Nested
                | Flaw::Duplicate,
            )
            | None => {}
        }
        flaw.is_none()
    }

    /// Returns headers, and whether one of them forbids storing.
    fn headers(&mut self) -> (HeaderMap, bool) {
        let clean = [
            ("content-type", "text/plain"),
            ("age", "0"),
            ("content-encoding", " Identity "),
            ("x-portkey-cache-status", "MISS"),
            ("cache-control", "private, x=no-store, max-age=0"),
            ("cf-cache-status", "HIT"),
        ];
        let forbidding = [
            ("age", "1"),
            ("age", "soon"),
            ("content-encoding", "br"),
            ("x-portkey-cache-status", "Semantic Hit"),
            ("cache-control", "public ,NO-STORE "),
            ("cache-control", "no-store=\"x\""),
        ];
        let mut headers = HeaderMap::new();
        let mut add = |(name, value)| headers.append(name, HeaderValue::from_static(value));
        for header in clean {
            if self.choose(1) == 1 {
                add(header);
            }
        }
        let forbids = self.choose(3) == 3;
        if forbids {
            add(forbidding[self.choose(5)]);
        }
        (headers, forbids)
    }
}

fuzz_target!(|data: &[u8]| {
    let Some(choices) = data.strip_prefix(b"#") else {
        if let Some(response) = read(data) {
            for rule in RULES.iter() {
                for honor_no_store in [true, false] {
                    let _ = check(rule, &response, honor_no_store);
                }
            }
        }
        return;
    };
    let mut u = Unstructured::new(choices);
    let mut builder = Builder {
        u: &mut u,
        out: Vec::new(),
    };
    let rule = &RULES[builder.choose(1)];
    let (headers, forbids) = builder.headers();
    let is_final = builder.body(rule);
    let response = Response {
        status: StatusCode::OK,
        headers,
        body: builder.out,
    };
    let result = check(rule, &response, true);
    let shown = String::from_utf8_lossy(&response.body);
    let expected = is_final && !forbids;
    assert_eq!(result.is_ok(), expected, "{result:?}: {shown}");
});
