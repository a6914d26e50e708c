//! What to say to those whom clap leaves without a word of what would be right.

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Error};

/// Flags of other programs, and what does it here.
const TIPS: [(&[&str], &str); 4] = [
    (
        &["-c", "-f", "--file"],
        "a configuration is named by --config FILE",
    ),
    (
        &["-p", "--port", "--host", "--bind", "--address"],
        "address and port are named by --listen 127.0.0.1:8180",
    ),
    (
        &["-v", "--verbose", "--debug", "--log-level"],
        "what is logged is set by the variable STEPGATE_LOG, as in STEPGATE_LOG=debug",
    ),
    (
        &["--api-key", "--key", "--token"],
        "secrets come from variables such as PORTKEY_API_KEY, or from files",
    ),
];

/// The error, with a tip where there is one to give.
pub(super) fn with_tip(mut error: Error, command: &Command) -> Error {
    if let Some(tip) = tip(&error, command) {
        let tip = ContextValue::StyledStrs(vec![tip.into()]);
        error.insert(ContextKind::Suggested, tip);
    }
    error
}

fn tip(error: &Error, command: &Command) -> Option<String> {
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
        return Some(format!("a configuration is named by --config {word}"));
    }
    if let Some((_, tip)) = TIPS.iter().find(|(words, _)| words.contains(&&**word)) {
        return Some((*tip).to_owned());
    }
    let flag = word.strip_prefix("--")?;
    let elsewhere = command
        .get_arguments()
        .any(|argument| argument.get_long() == Some(flag));
    elsewhere.then(|| format!("{word} is for `stepgate serve` and `stepgate check`"))
}
