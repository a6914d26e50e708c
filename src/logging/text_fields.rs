//! Formats the fields of a text line. A value always stays one value on one line: everything but a
//! plain word is quoted, and no control character reaches the terminal.

use std::fmt::{self, Debug};

use tracing::field::{Field, Visit};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::FormatFields;
use tracing_subscriber::fmt::format::Writer;

/// Formats fields as `message name=value name="a value"`.
pub(super) struct TextFields;

impl<'w> FormatFields<'w> for TextFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'w>, fields: R) -> fmt::Result {
        let mut visitor = FieldWriter {
            writer,
            needs_space: false,
            result: Ok(()),
        };
        fields.record(&mut visitor);
        visitor.result
    }
}

struct FieldWriter<'w> {
    writer: Writer<'w>,
    needs_space: bool,
    result: fmt::Result,
}

impl FieldWriter<'_> {
    fn write_field(&mut self, field: &Field, value: &dyn Debug, is_quoted: bool) -> fmt::Result {
        if std::mem::replace(&mut self.needs_space, true) {
            self.writer.write_char(' ')?;
        }
        let name = field.name();
        let text = format!("{value:?}");
        if name == "message" {
            return text.chars().try_for_each(|c| match c.is_control() {
                true => write!(self.writer, "{}", c.escape_default()),
                false => self.writer.write_char(c),
            });
        }
        if self.writer.has_ansi_escapes() {
            write!(self.writer, "\x1b[2m{name}=\x1b[0m")?;
        } else {
            write!(self.writer, "{name}=")?;
        }
        if is_quoted || is_plain_word(&text) {
            self.writer.write_str(&text)
        } else {
            write!(self.writer, "{text:?}")
        }
    }
}

impl Visit for FieldWriter<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if self.result.is_ok() {
            self.result = self.write_field(field, value, false);
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        if self.result.is_ok() {
            self.result = match field.name() {
                "message" => self.write_field(field, &format_args!("{value}"), false),
                // `Debug` of a string quotes and escapes it.
                _ => self.write_field(field, &value, true),
            };
        }
    }
}

/// Returns whether `text` needs no quotes.
fn is_plain_word(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_graphic() && !matches!(b, b'"' | b'\\' | b'=');
    !text.is_empty() && text.bytes().all(plain)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::fmt;

    use super::*;

    /// Returns the line of one event, without its time and level.
    fn line(ansi: bool, event: impl FnOnce()) -> String {
        let written = Arc::new(Mutex::new(Vec::new()));
        let writer = {
            let written = Arc::clone(&written);
            move || Buffer(Arc::clone(&written))
        };
        let subscriber = fmt()
            .with_writer(writer)
            .without_time()
            .with_target(false)
            .with_level(false)
            .with_ansi(ansi)
            .fmt_fields(TextFields)
            .finish();
        tracing::subscriber::with_default(subscriber, event);
        let written = written.lock().unwrap().clone();
        String::from_utf8(written).unwrap()
    }

    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl std::io::Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_field_value_stays_one_value_on_one_line() {
        let text = line(false, || {
            tracing::info!(
                rule = "run-step",
                n = 7,
                ms = 0.25,
                address = %"127.0.0.1:1",
                error = %"no\nway \x1b[31m\u{9b}\u{202e}\"x\"",
                pair = %"a=b",
                text = "two\nlines",
                empty = %"",
                none = None::<&str>,
                some = Some(tracing::field::display("ö")),
                "GET"
            );
        });
        assert_eq!(
            text,
            "GET rule=\"run-step\" n=7 ms=0.25 address=127.0.0.1:1 \
             error=\"no\\nway \\u{1b}[31m\\u{9b}\\u{202e}\\\"x\\\"\" pair=\"a=b\" \
             text=\"two\\nlines\" empty=\"\" some=\"ö\"\n"
        );
    }

    #[test]
    fn a_message_stays_on_one_line() {
        let text = line(false, || tracing::info!("a \"b\"\n{}", "\x1b[2J"));
        assert_eq!(text, "a \"b\"\\n\\u{1b}[2J\n");
    }

    #[test]
    fn only_field_names_are_dimmed() {
        let text = line(true, || tracing::info!(a = 1, b = %"\x1b[1m", "GET"));
        assert_eq!(
            text,
            "GET \x1b[2ma=\x1b[0m1 \x1b[2mb=\x1b[0m\"\\u{1b}[1m\"\n"
        );
    }
}
