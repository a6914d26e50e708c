//! The log: standard error, text or JSON, filtered by `STEPGATE_LOG`.

mod fields;

use std::io::IsTerminal;

use stepgate::config::{Log, LogFormat};
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{FilterExt, ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, fmt};

use fields::Fields;

/// Starts it, for the whole process.
///
/// # Errors
/// The filter cannot be read.
pub(crate) fn start(log: &Log) -> Result<(), ParseError> {
    let filter = EnvFilter::builder()
        .parse(&log.filter)?
        .and(filter_fn(is_ours));
    let layer = fmt::layer()
        .with_writer(std::io::stderr)
        .with_target(false)
        .with_ansi(has_colours(&std::io::stderr()));
    let layer = match log.format {
        LogFormat::Text => layer.fmt_fields(Fields).with_filter(filter).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).with_filter(filter).boxed(),
    };
    tracing_subscriber::registry().with(layer).init();
    Ok(())
}

/// On a terminal that has them, unless somebody wants none (<https://no-color.org>).
pub(crate) fn has_colours(stream: &impl IsTerminal) -> bool {
    let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    stream.is_terminal() && !unwanted && !is_dumb
}

/// Below warnings, the libraries under us print what they read and write, headers included: no
/// filter may ask for that.
fn is_ours(event: &Metadata<'_>) -> bool {
    event.target().starts_with("stepgate") || *event.level() <= Level::WARN
}
