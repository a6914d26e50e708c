//! Starts the servers that are measured, each with its configuration from `benches/peers/` and as its
//! users would start it, and checks that they respond rightly before they are timed.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use hyper::header::CONTENT_TYPE;
use hyper::{Response, StatusCode};
use tempfile::TempDir;

use crate::Result;
use crate::baseline::bare_body;
use crate::client;
use crate::origin::{Authority, CREDENTIALS, NAME, Origin};
use crate::process::{Cores, Process, free_address, pause};
use crate::run_step;

/// Names a server and how it is configured.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// hyper's server, with a body of so many bytes.
    Bare(usize),
    /// hyper's server and client.
    Relay,
    /// stepgate with so many worker threads.
    Stepgate(u32),
    Haproxy,
    HaproxyBodyRule,
    Nginx {
        /// Is cheaper for large bodies, and dearer for small ones.
        sendfile: bool,
        /// Keeps the files of the cache open from request to request.
        open_file_cache: bool,
    },
    Varnish,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare(_) => "bare hyper",
            Self::Relay => "bare hyper, both sides",
            Self::Stepgate(1) => "stepgate",
            Self::Stepgate(_) => "stepgate, more workers",
            Self::Haproxy => "HAProxy",
            Self::HaproxyBodyRule => "HAProxy, body rule",
            Self::Nginx {
                open_file_cache: false,
                ..
            } => "nginx",
            Self::Nginx { .. } => "nginx, open_file_cache",
            Self::Varnish => "Varnish",
        }
    }

    /// Returns the command line and the configuration file, both with `{{words}}` to be filled in.
    fn templates(self) -> (&'static str, &'static str) {
        match self {
            Self::Bare(_) => ("{{self}} bare --listen {{listen}} --size {{size}}", ""),
            Self::Relay => (
                "{{self}} relay --listen {{listen}} --upstream {{upstream}}",
                "",
            ),
            Self::Stepgate(_) => (
                "{{stepgate}} serve --config {{config}} --listen {{listen}} --admin {{admin}}",
                include_str!("../peers/stepgate.toml"),
            ),
            Self::Haproxy => (
                "haproxy -db -f {{config}}",
                include_str!("../peers/haproxy.cfg"),
            ),
            Self::HaproxyBodyRule => (
                "haproxy -db -f {{config}}",
                include_str!("../peers/haproxy-status.cfg"),
            ),
            // nginx needs `-e` until it has read in its configuration where its log is.
            Self::Nginx { .. } => (
                "nginx -p {{folder}} -c {{config}} -e stderr",
                include_str!("../peers/nginx.conf"),
            ),
            Self::Varnish => (
                "varnishd -F -j none -n {{folder}}/work -a {{listen}} -f {{config}} -s malloc,1G -p thread_pools=1",
                include_str!("../peers/varnish.vcl"),
            ),
        }
    }
}

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
        let memory = Path::new("/dev/shm");
        let folder = if memory.is_dir() {
            tempfile::tempdir_in(memory)?
        } else {
            tempfile::tempdir()?
        };
        Ok(Self {
            stepgate: fs::canonicalize(stepgate)?,
            authority: Authority::new(folder.path())?,
            folder,
        })
    }

    /// Describes a server on the core of its own.
    pub(crate) fn launch<'a>(&'a self, kind: Kind, origin: &'a Origin) -> Launch<'a> {
        Launch {
            kind,
            stage: self,
            origin,
            prefix: Cores::Server.prefix(),
            redis: None,
        }
    }

    pub(crate) fn start(&self, kind: Kind, origin: &Origin) -> Result<Server> {
        self.launch(kind, origin).start()
    }
}

/// Describes a server to be started.
pub(crate) struct Launch<'a> {
    kind: Kind,
    stage: &'a Stage,
    origin: &'a Origin,
    prefix: Vec<String>,
    redis: Option<SocketAddr>,
}

impl Launch<'_> {
    pub(crate) fn on(self, cores: Cores) -> Self {
        self.under(cores.prefix())
    }

    /// Puts these words before the command line.
    pub(crate) fn under(self, prefix: Vec<String>) -> Self {
        Self { prefix, ..self }
    }

    /// Makes stepgate one of a fleet that shares this Redis, if there is one.
    pub(crate) fn with_redis(self, redis: Option<SocketAddr>) -> Self {
        Self { redis, ..self }
    }

    /// Starts the server and waits until it responds and, in a fleet, until it uses Redis.
    pub(crate) fn start(self) -> Result<Server> {
        let has_redis = self.redis.is_some();
        let mut server = self.spawn()?;
        let (address, admin) = (server.address, server.admin);
        server
            .process
            .wait_until(|| client::get(address, "/").is_ok())?;
        if has_redis {
            let is_up = || metric(admin, "stepgate_shared_up", "").is_ok_and(|up| up == 1);
            server.process.wait_until(is_up)?;
        }
        Ok(server)
    }

    /// Starts the server and returns at once.
    pub(crate) fn spawn(self) -> Result<Server> {
        let folder = tempfile::tempdir_in(&self.stage.folder)?.keep();
        let (listen, admin) = (free_address()?, free_address()?);
        let config = folder.join("config");
        let words = self.words(&folder, listen, admin, &config)?;
        let (command, template) = self.kind.templates();
        let shared = self.redis.map_or("", |_| SHARED_TIER);
        fs::write(&config, fill(&[template, shared].concat(), &words)?)?;
        let mut command_line = self.prefix;
        for word in command.split(' ') {
            command_line.push(fill(word, &words)?);
        }
        let workers = if let Kind::Stepgate(workers) = self.kind {
            workers
        } else {
            1
        };
        let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
        let environment = [
            ("TOKIO_WORKER_THREADS", &*workers.to_string()),
            ("PORTKEY_API_KEY", api_key),
            ("PORTKEY_PROVIDER_VIRTUAL_KEY", virtual_key),
        ];
        Ok(Server {
            kind: self.kind,
            address: listen,
            admin,
            process: Process::start(self.kind.name(), &command_line, &environment)?,
        })
    }

    /// Returns the `{{words}}` of command lines and configuration files, with their values.
    fn words(
        &self,
        folder: &Path,
        listen: SocketAddr,
        admin: SocketAddr,
        config: &Path,
    ) -> Result<Vec<(&'static str, String)>> {
        let upstream = self.origin.address;
        let ca = self.stage.authority.file.display().to_string();
        let (scheme, tls) = if self.origin.has_tls {
            let tls = format!("ssl verify required ca-file {ca} sni str({NAME}) verifyhost {NAME}");
            ("https", tls)
        } else {
            ("http", String::new())
        };
        let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
        let mut words = vec![
            ("self", std::env::current_exe()?.display().to_string()),
            ("stepgate", self.stage.stepgate.display().to_string()),
            ("config", config.display().to_string()),
            ("folder", folder.display().to_string()),
            ("listen", listen.to_string()),
            ("admin", admin.to_string()),
            ("upstream", upstream.to_string()),
            ("upstream_host", upstream.ip().to_string()),
            ("upstream_port", upstream.port().to_string()),
            ("scheme", scheme.to_owned()),
            ("tls", tls),
            ("ca", ca),
            ("name", NAME.to_owned()),
            ("api_key", api_key.to_owned()),
            ("virtual_key", virtual_key.to_owned()),
        ];
        if let Kind::Bare(size) = self.kind {
            words.push(("size", size.to_string()));
        }
        if let Kind::Nginx {
            sendfile,
            open_file_cache,
        } = self.kind
        {
            let files = if open_file_cache {
                "max=10000 inactive=1h"
            } else {
                "off"
            };
            words.push(("sendfile", if sendfile { "on" } else { "off" }.to_owned()));
            words.push(("open_file_cache", files.to_owned()));
        }
        if let Some(redis) = self.redis {
            words.push(("redis", redis.to_string()));
        }
        Ok(words)
    }
}

/// Returns the template with its `{{words}}` filled in.
fn fill(template: &str, words: &[(&str, String)]) -> Result<String> {
    let text = words
        .iter()
        .fold(template.to_owned(), |text, (word, value)| {
            text.replace(&format!("{{{{{word}}}}}"), value)
        });
    match text.split_once("{{") {
        None => Ok(text),
        Some((_, rest)) => {
            let word = rest.split("}}").next().unwrap_or(rest);
            Err(format!("there is no value for {{{{{word}}}}}").into())
        }
    }
}

/// Owns a server under measurement.
pub(crate) struct Server {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// Is stepgate's admin listener; other servers have none.
    admin: SocketAddr,
    process: Process,
}

impl Server {
    /// Runs `work` and returns its value with the processor time that the server used meanwhile.
    pub(crate) fn cpu_during<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<(T, Duration)> {
        let before = self.cpu_time()?;
        let value = work()?;
        Ok((value, self.cpu_time()? - before))
    }

    pub(crate) fn cpu_time(&self) -> Result<Duration> {
        self.process.cpu_time()
    }

    /// Returns the resident memory in bytes.
    pub(crate) fn resident(&self) -> u64 {
        self.process.resident()
    }

    /// Returns the sum of a metric's samples that have `label`, as in `result="stored"`; all samples
    /// if it is empty.
    pub(crate) fn metric(&self, name: &str, label: &str) -> Result<u64> {
        metric(self.admin, name, label)
    }

    /// Requests a final step until the response comes from the cache, and checks every response.
    ///
    /// Some servers store a little after they have responded, so it tries 50 times.
    pub(crate) fn check_hit(&self, origin: &Origin, path: &str) -> Result<()> {
        for _ in 0..50 {
            let before = origin.requests();
            let response = self.check(path)?;
            if origin.requests() == before {
                return self.check_cache_status(path, &response, &["; hit"]);
            }
            pause(Duration::from_millis(2));
        }
        Err(self.wrong(path, "it is fetched every time"))
    }

    /// Requests a step in progress twice, and checks that each request is a fetch.
    pub(crate) fn check_fetch(&self, origin: &Origin, path: &str) -> Result<()> {
        for _ in 0..2 {
            let before = origin.requests();
            let response = self.check(path)?;
            let fetches = origin.requests() - before;
            if fetches != 1 {
                return Err(self.wrong(path, &format!("{fetches} fetches for one request")));
            }
            let expected = ["fwd=uri-miss", "fwd-status=200", "detail=not_final"];
            self.check_cache_status(path, &response, &expected)?;
        }
        Ok(())
    }

    /// Returns the response after a check of its status, its type and every byte.
    fn check(&self, path: &str) -> Result<Response<Bytes>> {
        let response = client::get(self.address, path)?;
        let body = if let Kind::Bare(size) = self.kind {
            bare_body(size)
        } else {
            run_step::body_of(path).ok_or("not a path of a step")?
        };
        let content_type = response.headers().get(CONTENT_TYPE);
        if response.status() != StatusCode::OK
            || content_type.is_none_or(|value| value != "application/json")
            || *response.body() != body
        {
            let bytes = response.body().len();
            let (head, _) = response.into_parts();
            return Err(self.wrong(path, &format!("{head:?}, {bytes} bytes of body")));
        }
        Ok(response)
    }

    /// Checks what stepgate says in `Cache-Status`; other servers say nothing there.
    fn check_cache_status(
        &self,
        path: &str,
        response: &Response<Bytes>,
        expected: &[&str],
    ) -> Result<()> {
        let status = response.headers().get("cache-status");
        let status = status
            .and_then(|status| status.to_str().ok())
            .unwrap_or_default();
        let is_right = expected.iter().all(|word| status.contains(word));
        if is_right || !matches!(self.kind, Kind::Stepgate(_)) {
            return Ok(());
        }
        Err(self.wrong(
            path,
            &format!("Cache-Status is {status:?}, not {expected:?}"),
        ))
    }

    fn wrong(&self, path: &str, why: &str) -> Box<dyn std::error::Error + Send + Sync> {
        format!("{}: wrong response to {path}: {why}", self.kind.name()).into()
    }
}

fn metric(admin: SocketAddr, name: &str, label: &str) -> Result<u64> {
    let response = client::get(admin, "/metrics")?;
    let metrics = String::from_utf8_lossy(response.body()).into_owned();
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let is_sample = rest.starts_with(['{', ' ']) && rest.contains(label);
        is_sample.then(|| rest.rsplit_once(' '))?
    });
    samples.map(|(_, value)| Ok(value.parse::<u64>()?)).sum()
}
