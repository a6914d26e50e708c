//! Starts the servers that are measured, each with its configuration from `benches/peers/` and as its
//! users would start it, and checks that they respond rightly before they are timed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper::StatusCode;
use hyper::header::CONTENT_TYPE;
use tempfile::TempDir;

use crate::Result;
use crate::certificates::Authority;
use crate::http;
use crate::origin::{CREDENTIALS, NAME, Origin};
use crate::process::{Process, free_address, pause};
use crate::run_step::RunStep;

/// Describes a server. Command line and configuration file hold `{{words}}`, which are filled in.
#[derive(Clone, Copy)]
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    command: &'static str,
    config: &'static str,
    /// Is the value of `{{variant}}`.
    variant: &'static str,
}

impl Kind {
    const fn with(self, name: &'static str, variant: &'static str) -> Self {
        Self {
            name,
            variant,
            ..self
        }
    }
}

/// Is hyper's server alone, with a body of so many bytes.
pub(crate) const BARE: Kind = Kind {
    name: "bare hyper",
    command: "{{prefix}} {{self}} bare --listen {{listen}} --size {{variant}}",
    config: "",
    variant: "790",
};
pub(crate) const BARE_72K: Kind = BARE.with(BARE.name, "73728");
pub(crate) const BARE_840K: Kind = BARE.with(BARE.name, "860160");

/// Is hyper's server and client alone.
pub(crate) const RELAY: Kind = Kind {
    name: "bare hyper, both sides",
    command: "{{prefix}} {{self}} relay --listen {{listen}} --upstream {{upstream}}",
    ..BARE
};

/// Is stepgate with one worker thread.
pub(crate) const STEPGATE: Kind = Kind {
    name: "stepgate",
    command: "env {{variant}} PORTKEY_API_KEY={{api_key}} PORTKEY_PROVIDER_VIRTUAL_KEY={{virtual_key}} \
              {{prefix}} {{stepgate}} serve --config {{config}} --listen {{listen}} --admin {{admin}}",
    config: include_str!("../peers/stepgate.toml"),
    variant: "TOKIO_WORKER_THREADS=1",
};
const MORE_WORKERS: &str = "stepgate, more workers";
pub(crate) const STEPGATE_2: Kind = STEPGATE.with(MORE_WORKERS, "TOKIO_WORKER_THREADS=2");
/// Is stepgate with a worker thread for each core.
pub(crate) const STEPGATE_ALL: Kind = STEPGATE.with(MORE_WORKERS, "-uTOKIO_WORKER_THREADS");

pub(crate) const HAPROXY: Kind = Kind {
    name: "HAProxy",
    command: "{{prefix}} haproxy -db -f {{config}}",
    config: include_str!("../peers/haproxy.cfg"),
    variant: "",
};
pub(crate) const HAPROXY_BODY_RULE: Kind = Kind {
    name: "HAProxy, body rule",
    config: include_str!("../peers/haproxy-status.cfg"),
    ..HAPROXY
};

/// Is nginx as it is cheapest with small bodies. It needs `-e` until it has read where its log is.
pub(crate) const NGINX: Kind = Kind {
    name: "nginx",
    command: "{{prefix}} nginx -p {{folder}} -c {{config}} -e stderr",
    config: include_str!("../peers/nginx.conf"),
    variant: "sendfile off;",
};
/// Is nginx as it is cheapest with large bodies.
pub(crate) const NGINX_LARGE: Kind = NGINX.with("nginx", "sendfile on;");
const OPEN_FILES: &str = "nginx, open_file_cache";
pub(crate) const NGINX_OPEN_FILES: Kind = NGINX.with(
    OPEN_FILES,
    "sendfile off; open_file_cache max=10000 inactive=1h;",
);
pub(crate) const NGINX_LARGE_OPEN_FILES: Kind = NGINX.with(
    OPEN_FILES,
    "sendfile on; open_file_cache max=10000 inactive=1h;",
);

pub(crate) const VARNISH: Kind = Kind {
    name: "Varnish",
    command: "{{prefix}} varnishd -F -j none -n {{folder}}/work -a {{listen}} -f {{config}} \
              -s malloc,1G -p thread_pools=1",
    config: include_str!("../peers/varnish.vcl"),
    variant: "",
};

/// Is appended to stepgate's configuration if it is one of a fleet.
const SHARED_TIER: &str = "
[cache.redis]
url = \"redis://{{redis}}\"
prefix = \"fleet\"
command_timeout = \"50ms\"
";

/// Holds what all servers of a run need: stepgate's binary, a folder in memory for configurations and
/// nginx's cache, certificates.
pub(crate) struct Stage {
    stepgate: PathBuf,
    folder: TempDir,
    pub(crate) authority: Authority,
}

impl Stage {
    pub(crate) fn new(stepgate: &Path) -> Result<Self> {
        let memory = Some(Path::new("/dev/shm")).filter(|folder| folder.is_dir());
        let folder = memory.map_or_else(tempfile::tempdir, tempfile::tempdir_in)?;
        Ok(Self {
            stepgate: fs::canonicalize(stepgate)?,
            authority: Authority::new(),
            folder,
        })
    }

    /// Starts a server and waits until it responds and, in a fleet, until it uses Redis.
    pub(crate) fn start(
        &self,
        kind: Kind,
        origin: &Origin,
        prefix: &str,
        redis: Option<SocketAddr>,
    ) -> Result<Server> {
        let mut server = self.spawn(kind, origin, prefix, redis)?;
        let (address, admin) = (server.address, server.admin);
        let responds = || http::get(address, "/").is_ok();
        let uses_redis = || metric(admin, "stepgate_shared_up", "").is_ok_and(|up| up == 1);
        server
            .process
            .wait_until(|| responds() && (redis.is_none() || uses_redis()))?;
        Ok(server)
    }

    /// Starts a server and returns at once. `prefix` holds the words before its command line; stepgate
    /// shares `redis`, if there is one, with a fleet.
    pub(crate) fn spawn(
        &self,
        kind: Kind,
        origin: &Origin,
        prefix: &str,
        redis: Option<SocketAddr>,
    ) -> Result<Server> {
        let folder = tempfile::tempdir_in(&self.folder)?.keep();
        let (config, ca) = (
            folder.join("config"),
            self.authority.file().display().to_string(),
        );
        let (listen, admin, upstream) = (free_address()?, free_address()?, origin.address);
        let (scheme, tls) = if origin.has_tls {
            let tls = format!("ssl verify required ca-file {ca} sni str({NAME}) verifyhost {NAME}");
            ("https", tls)
        } else {
            ("http", String::new())
        };
        let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
        let words = [
            ("variant", kind.variant.to_owned()),
            ("self", std::env::current_exe()?.display().to_string()),
            ("stepgate", self.stepgate.display().to_string()),
            ("config", config.display().to_string()),
            ("folder", folder.display().to_string()),
            ("listen", listen.to_string()),
            ("admin", admin.to_string()),
            ("upstream", upstream.to_string()),
            ("upstream_host", upstream.ip().to_string()),
            ("upstream_port", upstream.port().to_string()),
            ("scheme", scheme.to_owned()),
            ("tls", tls),
            ("ca", ca.clone()),
            ("name", NAME.to_owned()),
            ("api_key", api_key.to_owned()),
            ("virtual_key", virtual_key.to_owned()),
            (
                "redis",
                redis.map_or(String::new(), |redis| redis.to_string()),
            ),
        ];
        let fill = |template: &str| {
            words
                .iter()
                .fold(template.to_owned(), |text, (word, value)| {
                    text.replace(&format!("{{{{{word}}}}}"), value)
                })
        };
        let shared = redis.map_or("", |_| SHARED_TIER);
        fs::write(&config, fill(&[kind.config, shared].concat()))?;
        let command = kind.command.replace("{{prefix}}", prefix);
        let command: Vec<_> = command.split(' ').map(fill).collect();
        Ok(Server {
            name: kind.name,
            address: listen,
            admin,
            process: Process::start(kind.name, &command)?,
        })
    }
}

/// Owns a server under measurement.
pub(crate) struct Server {
    pub(crate) name: &'static str,
    pub(crate) address: SocketAddr,
    /// Is stepgate's admin listener; other servers have none.
    admin: SocketAddr,
    pub(crate) process: Process,
}

impl Server {
    /// Runs `work` and returns its value with the processor time that the server used meanwhile, in
    /// microseconds.
    pub(crate) fn cpu_during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, f64)> {
        let before = self.process.cpu_micros()?;
        let value = work()?;
        Ok((value, self.process.cpu_micros()? - before))
    }

    /// Returns the sum of a metric's samples that have `label`, as in `result="stored"`; all samples
    /// if it is empty.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<u64> {
        metric(self.admin, name, label)
    }

    /// Checks every byte of the responses to a step, and that they come from the cache if it is final,
    /// and each from a fetch if it is live. Thereafter a final step is stored.
    pub(crate) fn check(&self, origin: &Origin, path: &str) -> Result<()> {
        let step = RunStep::parse(path).ok_or("not a path of a step")?;
        let is_final = step.lifetime.is_some();
        // Some servers store a little after they have responded.
        for attempt in 1..=50 {
            let before = origin.settled_requests();
            let response = http::get(self.address, path)?;
            let fetches = origin.requests() - before;
            let content_type = response.headers().get(CONTENT_TYPE);
            let is_json = content_type.is_some_and(|value| value == "application/json");
            let cache_status = format!("{:?}", response.headers().get("cache-status"));
            let expected = match (fetches, is_final) {
                (0, true) => "stepgate; hit",
                (_, true) => "fwd-status=200; stored",
                (_, false) => "fwd-status=200; detail=not_final",
            };
            let has_cache_status = self.name.starts_with(STEPGATE.name);
            if response.status() != StatusCode::OK
                || !is_json
                || *response.body() != step.body(is_final)
                || has_cache_status && !cache_status.contains(expected)
                || !is_final && fetches != 1
            {
                let (name, status) = (self.name, response.status());
                let why =
                    format!("status {status}, Cache-Status {cache_status}, {fetches} fetches");
                return Err(format!("{name}: wrong response to {path}: {why}").into());
            }
            if attempt > 1 && (fetches == 0 || !is_final) {
                return Ok(());
            }
            pause(Duration::from_millis(2));
        }
        Err(format!("{}: {path} is fetched every time", self.name).into())
    }
}

fn metric(admin: SocketAddr, name: &str, label: &str) -> Result<u64> {
    let response = http::get(admin, "/metrics")?;
    let metrics = String::from_utf8_lossy(response.body()).into_owned();
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_sample = rest.starts_with(['{', ' ']) && rest.contains(label);
        is_sample.then(|| rest.rsplit_once(' '))?
    });
    samples.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}
