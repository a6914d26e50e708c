//! Writes the log to standard error, as text or as JSON, filtered by `STEPGATE_LOG`.

mod text_fields;

use std::io::IsTerminal;

use stepgate::config::{Log, LogFormat};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use text_fields::TextFields;

/// Starts the log for the whole process.
///
/// # Errors
/// Returns a [`ParseError`] if the filter is invalid.
pub(crate) fn init(log: &Log) -> Result<(), ParseError> {
    let filter = EnvFilter::builder()
        .parse(&log.filter)?
        .and(filter_fn(is_allowed));
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(has_colours(&std::io::stderr()));
    let layer = match log.format {
        LogFormat::Text => layer.fmt_fields(TextFields).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer).init();
    Ok(())
}

/// Returns whether `stream` is a terminal with colours and `NO_COLOR` is unset or empty
/// (<https://no-color.org>).
pub(crate) fn has_colours(stream: &impl IsTerminal) -> bool {
    let no_color = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stream.is_terminal() && !no_color && !is_dumb
}

/// Excludes events of libraries below warnings, whatever the filter says, because these events print
/// headers, and with them secrets.
fn is_allowed(event: &Metadata<'_>) -> bool {
    event.target().starts_with("stepgate") || *event.level() <= Level::WARN
}
