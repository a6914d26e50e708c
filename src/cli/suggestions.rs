//! Adds to clap's errors what the user probably meant, where clap has no suggestion.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Pairs flags of other programs with what stepgate has in their place.
const FLAGS_OF_OTHERS: [(&[&str], &str); 4] = [
    (
        &["-c", "-f", "--file"],
        "name the configuration file with --config FILE",
    ),
    (
        &["-p", "--port", "--host", "--bind", "--address"],
        "set address and port with --listen 127.0.0.1:8180",
    ),
    (
        &["-v", "--verbose", "--debug", "--log-level"],
        "set the log level with the variable STEPGATE_LOG, as in STEPGATE_LOG=debug",
    ),
    (
        &["--api-key", "--key", "--token"],
        "set secrets in variables such as PORTKEY_API_KEY, or in files",
    ),
];

/// Returns `error`, with a suggestion if there is one.
pub(super) fn add(mut error: Error, command: &Command) -> Error {
    if let Some(suggestion) = suggestion(&error, command) {
        let suggestion = ContextValue::StyledStrs(vec![suggestion.into()]);
        error.insert(ContextKind::Suggested, suggestion);
    }
    error
}

fn suggestion(error: &Error, command: &Command) -> Option<String> {
    let word = if error.kind() == ErrorKind::InvalidSubcommand {
        error.get(ContextKind::InvalidSubcommand)
    } else if error.kind() == ErrorKind::UnknownArgument {
        error.get(ContextKind::InvalidArg)
    } else {
        None
    };
    let Some(ContextValue::String(word)) = word else {
        return None;
    };
    if word.ends_with(".toml") {
        return Some(format!("name the configuration file with --config {word}"));
    }
    let mut foreign = FLAGS_OF_OTHERS.iter();
    if let Some((_, suggestion)) = foreign.find(|(flags, _)| flags.contains(&&**word)) {
        return Some((*suggestion).to_owned());
    }
    let flag = word.strip_prefix("--")?;
    let is_of_serve = command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(flag));
    is_of_serve.then(|| format!("{word} is a flag of `stepgate serve` and `stepgate check`"))
}
