//! Tests help texts, completion scripts and colours.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

use super::run;
use crate::support::within;

const PROGRAM: &str = env!("CARGO_BIN_EXE_stepgate");

/// Returns whether a shell command succeeded, and its output.
async fn shell(command: &str, env: &[(&str, &str)]) -> (bool, String) {
    let mut program = Command::new("/bin/bash");
    program
        .args(["-c", command])
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("STEPGATE", PROGRAM)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let output = within("the end of a shell command", program.output())
        .await
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    (output.status.success(), text)
}

#[tokio::test]
async fn help_has_a_short_and_a_long_form_and_exit_code_0() {
    let (code, short) = run(&["-h"]).await;
    assert_eq!(code, Some(0));
    let (code, long) = run(&["--help"]).await;
    assert_eq!(code, Some(0));
    assert!(short.lines().count() < 30 && long.lines().count() > 50);
    for command in ["serve", "check", "demo", "health", "completions"] {
        for help in ["-h", "--help"] {
            let (code, text) = run(&[command, help]).await;
            assert_eq!(code, Some(0), "{command}");
            assert!(
                text.contains(&format!("Usage: stepgate {command}")),
                "{text}"
            );
        }
    }
}

#[tokio::test]
async fn flags_are_accepted_before_and_after_the_command() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, "[upstream]\ntimout = 1\n").unwrap();
        path.display().to_string()
    };
    let (first, second) = (file("first.toml"), file("second.toml"));
    for (arguments, named) in [
        (&["--config", &first, "check"][..], &first),
        (&["check", "--config", &first], &first),
        (&["--config", &first, "check", "--config", &second], &second),
        (&["--config", &first], &first),
    ] {
        let (code, text) = run(arguments).await;
        assert_eq!(code, Some(78), "{arguments:?}: {text}");
        assert!(text.contains(&**named), "{arguments:?}: {text}");
    }
    let (code, text) = run(&["--config", &first, "demo"]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(text.contains("leave out --config"), "{text}");
}

#[tokio::test]
async fn bash_completes_commands_flags_and_values() {
    let complete = r#"
        set -e
        source <("$STEPGATE" completions bash)
        bash -n <("$STEPGATE" completions bash)
        complete -p stepgate | grep -q _stepgate
        try() {
            COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
            _stepgate stepgate "${@: -1}" "${@: -2:1}"
            echo "${COMPREPLY[@]}"
        }
        try stepgate ch
        try stepgate check --lo
        try stepgate check --log-format j
        try stepgate completions f"#;
    let (success, text) = shell(complete, &[]).await;
    assert!(success, "{text}");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines, ["check", "--log-format", "json", "fish"]);
}

#[tokio::test]
async fn the_scripts_of_other_shells_are_valid() {
    for (name, marker) in [
        ("zsh", "#compdef stepgate"),
        ("fish", "complete -c stepgate"),
        ("elvish", "edit:completion"),
        ("powershell", "Register-ArgumentCompleter"),
    ] {
        let (code, text) = run(&["completions", name]).await;
        assert_eq!(code, Some(0));
        assert!(text.contains(marker), "{text}");
        for word in ["--log-format", "completions", "health"] {
            // The fish script has the names without dashes.
            assert!(
                text.contains(word.trim_start_matches('-')),
                "{name}: {word}"
            );
        }
        let path = format!("/usr/bin/{name}");
        if Path::new(&path).exists() && ["zsh", "fish"].contains(&name) {
            let check = format!("{path} -n <(\"$STEPGATE\" completions {name})");
            let (success, text) = shell(&check, &[]).await;
            assert!(success, "{name}: {text}");
        }
    }
    let (code, text) = run(&["completions", "tcsh"]).await;
    assert_eq!(code, Some(2), "{text}");
    assert!(
        text.contains("bash, elvish, fish, powershell, zsh"),
        "{text}"
    );
}

/// Runs `command` on a terminal and returns whether its output has colours.
async fn is_coloured(command: &str, env: &[(&str, &str)]) -> bool {
    let on_a_terminal = format!("script -qec '{command}' /dev/null");
    let (_, text) = shell(&on_a_terminal, env).await;
    let expected = ["stepgate demo", "--help", "go through a proxy"];
    assert!(expected.iter().any(|part| text.contains(part)), "{text}");
    text.contains('\x1b')
}

#[tokio::test]
async fn output_is_coloured_only_on_a_terminal_with_colours_and_without_no_color() {
    // Logs one line and then fails, because the socket cannot be created.
    let serve = "\"$STEPGATE\" --listen unix:/no/such/folder/socket";
    let help = "\"$STEPGATE\" -h";
    let bad_usage = "\"$STEPGATE\" --wrong";
    let keys = [
        ("PORTKEY_API_KEY", "a-key"),
        ("PORTKEY_PROVIDER_VIRTUAL_KEY", "another"),
        ("HTTPS_PROXY", "http://proxy.internal:3128"),
    ];
    for command in [help, bad_usage, serve] {
        for (more, expected) in [
            (&[("TERM", "xterm")][..], true),
            (&[("TERM", "xterm"), ("NO_COLOR", "")], true),
            (&[("TERM", "xterm"), ("NO_COLOR", "1")], false),
            (&[("TERM", "dumb")], false),
            (&[], false),
        ] {
            let env = [&keys[..], more].concat();
            let coloured = is_coloured(command, &env).await;
            assert_eq!(coloured, expected, "{command} {more:?}");
        }
        let env = [&keys[..], &[("TERM", "xterm")]].concat();
        let (_, text) = shell(command, &env).await;
        assert!(!text.contains('\x1b'), "{command} {text}");
    }
}
