//! What is valid and may yet not be what was meant: a warning of `check` and of a start, no error.

use crate::support::gateway::ENVIRONMENT;
use crate::support::process::Launch;
use crate::support::{Origin, process};

/// What `check` says with this in its environment besides: warnings, then the configuration.
async fn check(arguments: &[&str], more: &[(&str, &str)]) -> (Vec<String>, String) {
    let env = [&ENVIRONMENT[..], more].concat();
    let arguments = [&["check"], arguments].concat();
    let (code, text) = process::run(&arguments, &env).await;
    assert_eq!(code, Some(0), "{more:?}: {text}");
    let warnings = text.lines().filter_map(|l| l.strip_prefix("warning: "));
    (warnings.map(str::to_owned).collect(), text)
}

#[tokio::test]
async fn a_variable_that_nothing_reads_is_told() {
    for (name, words) in [
        ("STEPGATE_LISTN", "did you mean STEPGATE_LISTEN?"),
        ("STEPGATE_ADMIN_", "did you mean STEPGATE_ADMIN?"),
        ("STEPGATE_LOGFORMAT", "did you mean STEPGATE_LOG_FORMAT?"),
        ("STEPGATE_LOGS", "did you mean STEPGATE_LOG?"),
        ("STEPGATE_API_KEY", "there may be CONFIG, LISTEN"),
        ("STEPGATE_PORT", "there may be"),
    ] {
        let (warnings, _) = check(&[], &[(name, "canary")]).await;
        let [told] = &warnings[..] else {
            panic!("{name}: {warnings:?}");
        };
        assert!(told.starts_with(&format!("{name}: ")), "{told}");
        assert!(told.contains(words) && !told.contains("canary"), "{told}");
    }
}

#[tokio::test]
async fn a_variable_that_is_read_or_not_ours_is_not() {
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
    // As Kubernetes sets them for Services named stepgate and stepgate-admin.
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
async fn a_number_of_workers_that_is_none_is_told() {
    for (value, is_told) in [("x", true), ("0", true), ("-1", true), ("2", false)] {
        let (warnings, _) = check(&[], &[("TOKIO_WORKER_THREADS", value)]).await;
        assert_eq!(
            warnings.len(),
            usize::from(is_told),
            "{value}: {warnings:?}"
        );
        let told = warnings.concat();
        assert_eq!(told.contains("TOKIO_WORKER_THREADS is ignored"), is_told);
    }
}

#[tokio::test]
async fn a_start_tells_them_too() {
    let origin = Origin::start().await;
    let env = [("STEPGATE_LISTN", "x"), ("TOKIO_WORKER_THREADS", "0")];
    let process = Launch::new(&origin.url(), "").env(&env).start().await;
    process.terminate().await;
    let (_, log) = process.exit().await;
    for words in ["did you mean STEPGATE_LISTEN?", "is ignored"] {
        let told = log
            .lines()
            .filter(|l| l.contains("WARN") && l.contains(words));
        assert_eq!(told.count(), 1, "{words}: {log}");
    }
}

#[tokio::test]
async fn an_authorization_of_one_word_is_told_without_it() {
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
        for (value, is_told) in [("sk-canary", true), ("Bearer sk-canary", false)] {
            let env = [("KEY", value), ("T", "token")];
            let (warnings, text) = check(&["--config", &name], &env).await;
            assert_eq!(warnings.len(), usize::from(is_told), "{warnings:?}");
            let told = warnings.concat();
            assert_eq!(told.contains(place) && told.contains("`Bearer `"), is_told);
            assert!(!text.contains("canary"), "{text}");
        }
    }
}

/// So that a path that the base URL lacks is seen.
#[tokio::test]
async fn check_shows_where_a_step_is_fetched() {
    const REST: &str = "/threads/…/runs/…/steps/…";
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
        assert_eq!(lines.next(), Some(&*format!("# a step: {base}{REST}")));
    }
}
