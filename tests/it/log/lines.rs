//! Parses the log as a collector would: each line, with its fields in order.

use serde::de::{Deserializer, MapAccess, Visitor};

/// A parsed line.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) message: String,
    /// All fields but time, level and message, in order.
    pub(crate) fields: Vec<(String, String)>,
}

impl Line {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(known, _)| known == name);
        field.map(|(_, value)| &**value)
    }
}

/// Parses lines of JSON objects. Panics if a member occurs twice.
pub(crate) fn json(output: &str) -> Vec<Line> {
    output.lines().map(json_line).collect()
}

fn json_line(line: &str) -> Line {
    let mut reader = serde_json::Deserializer::from_str(line);
    let members = reader.deserialize_map(InOrder);
    let mut fields = members.unwrap_or_else(|e| panic!("{e}: {line}"));
    reader.end().unwrap_or_else(|e| panic!("{e}: {line}"));
    let mut names: Vec<&str> = fields.iter().map(|(name, _)| &**name).collect();
    assert_eq!(names[..3], ["timestamp", "level", "message"], "{line}");
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    assert_eq!(names.len(), count, "{line}");
    let fields_after = fields.split_off(3);
    Line {
        message: fields.remove(2).1,
        fields: fields_after,
    }
}

/// Reads the members of an object in order, because a map would sort them.
struct InOrder;

impl<'de> Visitor<'de> for InOrder {
    type Value = Vec<(String, String)>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            members.push((name, text));
        }
        Ok(members)
    }
}

/// Parses lines of text: a time, a level, a message and fields.
pub(crate) fn text(output: &str) -> Vec<Line> {
    output.lines().map(text_line).collect()
}

fn text_line(line: &str) -> Line {
    let rest = line.split_once("Z ").expect("a time").1.trim_start();
    let (_level, rest) = rest.split_once(' ').expect("a level");
    let begin = rest.find('=').map_or(rest.len(), |equals| {
        rest[..equals].rfind(' ').map_or(0, |space| space + 1)
    });
    let (message, mut rest) = rest.split_at(begin);
    let mut fields = Vec::new();
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=').expect("a field");
        let (value, after) = value(after);
        fields.push((name.to_owned(), value));
        rest = after.strip_prefix(' ').unwrap_or(after);
    }
    Line {
        message: message.trim_end().to_owned(),
        fields,
    }
}

/// Returns the value at the start, a word or a quoted string, and the rest of the line.
fn value(text: &str) -> (String, &str) {
    if !text.starts_with('"') {
        let end = text.find(' ').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    }
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, char)) = chars.next() {
        match char {
            '"' => return (value, &text[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            plain => value.push(plain),
        }
    }
    panic!("no closing quote: {text}");
}
