//! Warnings of `check` and of a start: valid settings that are probably a mistake.

use crate::support::gateway::ENVIRONMENT;
use crate::support::process::Launch;
use crate::support::{Origin, process};

/// Runs `check` with these additional variables. Returns its warnings and its whole output.
async fn check(arguments: &[&str], more: &[(&str, &str)]) -> (Vec<String>, String) {
    let env = [&ENVIRONMENT[..], more].concat();
    let arguments = [&["check"], arguments].concat();
    let (code, text) = process::run(&arguments, &env).await;
    assert_eq!(code, Some(0), "{more:?}: {text}");
    let warnings = text.lines().filter_map(|l| l.strip_prefix("warning: "));
    (warnings.map(str::to_owned).collect(), text)
}

#[tokio::test]
async fn an_unread_variable_gives_a_warning() {
    for (name, words) in [
        ("STEPGATE_LISTN", "did you mean STEPGATE_LISTEN?"),
        ("STEPGATE_ADMIN_", "did you mean STEPGATE_ADMIN?"),
        ("STEPGATE_LOGFORMAT", "did you mean STEPGATE_LOG_FORMAT?"),
        ("STEPGATE_LOGS", "did you mean STEPGATE_LOG?"),
        ("STEPGATE_API_KEY", "it reads CONFIG, LISTEN"),
        ("STEPGATE_PORT", "it reads CONFIG"),
    ] {
        let (warnings, _) = check(&[], &[(name, "canary")]).await;
        let [warning] = &warnings[..] else {
            panic!("{name}: {warnings:?}");
        };
        assert!(warning.starts_with(&format!("{name}: ")), "{warning}");
        assert!(
            warning.contains(words) && !warning.contains("canary"),
            "{warning}"
        );
    }
}

#[tokio::test]
async fn a_variable_that_is_read_or_set_by_kubernetes_gives_no_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.toml");
    let text = "[cache.redis]\nurl = { env = \"STEPGATE_REDIS\" }\nprefix = \"p\"\n\
         [[client]]\nname = \"a\"\ntoken = { env = \"STEPGATE_TOKEN\" }\n";
    std::fs::write(&file, text).unwrap();
    let read = [
        ("STEPGATE_CONFIG", file.to_str().unwrap()),
        ("STEPGATE_REDIS", "redis://127.0.0.1:1"),
        ("STEPGATE_TOKEN", "token"),
        ("STEPGATE_LISTEN", "127.0.0.1:1"),
        ("STEPGATE_ADMIN", "127.0.0.1:2"),
        ("STEPGATE_UPSTREAM", "https://a.example/v1"),
        ("STEPGATE_LOG", "info"),
        ("STEPGATE_LOG_FORMAT", "json"),
        ("MYSTEPGATE_X", "1"),
    ];
    // Kubernetes sets these for Services named stepgate and stepgate-admin.
    let of_services = [
        ("STEPGATE_SERVICE_HOST", "10.0.0.1"),
        ("STEPGATE_SERVICE_PORT_HTTP", "8180"),
        ("STEPGATE_PORT", "tcp://10.0.0.1:8180"),
        ("STEPGATE_PORT_8180_TCP_ADDR", "10.0.0.1"),
        ("STEPGATE_ADMIN_SERVICE_HOST", "10.0.0.2"),
        ("STEPGATE_ADMIN_PORT", "tcp://10.0.0.2:8181"),
    ];
    for env in [&read[..], &of_services] {
        let (warnings, _) = check(&[], env).await;
        assert_eq!(warnings, [""; 0]);
    }
}

#[tokio::test]
async fn an_invalid_number_of_workers_gives_a_warning() {
    for (value, is_warned) in [("x", true), ("0", true), ("-1", true), ("2", false)] {
        let (warnings, _) = check(&[], &[("TOKIO_WORKER_THREADS", value)]).await;
        assert_eq!(
            warnings.len(),
            usize::from(is_warned),
            "{value}: {warnings:?}"
        );
        let warning = warnings.concat();
        assert_eq!(
            warning.contains("TOKIO_WORKER_THREADS is ignored"),
            is_warned
        );
    }
}

#[tokio::test]
async fn a_start_logs_the_warnings() {
    let origin = Origin::start().await;
    let env = [("STEPGATE_LISTN", "x"), ("TOKIO_WORKER_THREADS", "0")];
    let process = Launch::new(&origin.url(), "").env(&env).start().await;
    process.terminate().await;
    let (_, log) = process.exit().await;
    for words in ["did you mean STEPGATE_LISTEN?", "is ignored"] {
        let warning = log
            .lines()
            .filter(|l| l.contains("WARN") && l.contains(words));
        assert_eq!(warning.count(), 1, "{words}: {log}");
    }
}

#[tokio::test]
async fn an_authorization_without_a_scheme_gives_a_warning() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("f.toml");
    let name = file.display().to_string();
    for (table, place) in [
        ("[upstream.headers]\n", "upstream.headers"),
        (
            "[[client]]\nname = \"a\"\ntoken = { env = \"T\" }\n[client.headers]\n",
            "client \"a\"",
        ),
    ] {
        let text =
            format!("{table}Authorization = {{ env = \"KEY\" }}\nx-key = {{ env = \"KEY\" }}\n");
        std::fs::write(&file, text).unwrap();
        for (value, is_warned) in [("sk-canary", true), ("Bearer sk-canary", false)] {
            let env = [("KEY", value), ("T", "token")];
            let (warnings, text) = check(&["--config", &name], &env).await;
            assert_eq!(warnings.len(), usize::from(is_warned), "{warnings:?}");
            let warning = warnings.concat();
            assert_eq!(
                warning.contains(place) && warning.contains("`Bearer `"),
                is_warned
            );
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

/// A path that is missing from the base URL is visible there.
#[tokio::test]
async fn check_shows_an_example_of_a_fetched_url() {
    const PATH: &str = "/threads/…/runs/…/steps/…";
    for base in [
        "https://api.portkey.ai/v1",
        "https://api.portkey.ai",
        "http://127.0.0.1:8787/a/v1",
    ] {
        let (_, text) = check(&["--upstream", base], &[]).await;
        let mut lines = text.lines();
        assert!(
            lines.any(|line| line == format!("base_url = {base:?}")),
            "{text}"
        );
        assert_eq!(
            lines.next(),
            Some(&*format!("# requests go to {base}{PATH}"))
        );
    }
}
