//! Those who are measured, each with its configuration from `benches/peers/` and started as its users
//! would start it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::Fallible;
use crate::ask::ask;
use crate::origin::CREDENTIALS;
use crate::process::{Place, Process, SERVED, free_address};
use crate::upstream::{Authority, NAME, Upstream};
use crate::weight::Used;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    /// With a body of so many bytes.
    Bare(usize),
    /// hyper's server and client, and nothing between them.
    Relay,
    /// With so many worker threads.
    Stepgate(u32),
    Haproxy,
    HaproxyStatus,
    Nginx(Files),
    Varnish,
}

/// How nginx gets at the files of its cache.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Files {
    /// Read and written: cheaper for small bodies.
    Read,
    /// By sendfile: cheaper for large ones.
    Sent,
    /// Read, and kept open from request to request.
    ReadOpen,
    /// By sendfile, and kept open from request to request.
    SentOpen,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Bare(_) => "bare hyper",
            Self::Relay => "bare hyper, both sides",
            Self::Stepgate(1) => "stepgate",
            Self::Stepgate(_) => "stepgate, more workers",
            Self::Haproxy => "HAProxy",
            Self::HaproxyStatus => "HAProxy, body rule",
            Self::Nginx(Files::Read | Files::Sent) => "nginx",
            Self::Nginx(Files::ReadOpen | Files::SentOpen) => "nginx, open_file_cache",
            Self::Varnish => "Varnish",
        }
    }
}

/// What a run has in common: the binary that is measured, and a folder in memory for everybody's
/// files and for nginx's cache.
pub(crate) struct Stage {
    stepgate: PathBuf,
    folder: TempDir,
    pub(crate) authority: Authority,
}

impl Stage {
    pub(crate) fn new(stepgate: &Path) -> Fallible<Self> {
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

    /// A folder of one contender's own.
    fn folder(&self) -> Fallible<PathBuf> {
        Ok(tempfile::tempdir_in(&self.folder)?.keep())
    }
}

pub(crate) struct Contender {
    pub(crate) kind: Kind,
    pub(crate) address: SocketAddr,
    /// stepgate's own listener for its operator; nobody's else.
    admin: SocketAddr,
    process: Process,
}

impl Contender {
    /// Starts it on its core, or elsewhere, and waits until it answers.
    pub(crate) fn start(kind: Kind, stage: &Stage, upstream: &Upstream) -> Fallible<Self> {
        Self::start_at(SERVED, kind, stage, upstream)
    }

    pub(crate) fn start_at(
        place: Place,
        kind: Kind,
        stage: &Stage,
        upstream: &Upstream,
    ) -> Fallible<Self> {
        let mut contender = Self::spawn(place, kind, stage, upstream)?;
        contender.process.wait_for(contender.address)?;
        Ok(contender)
    }

    /// stepgate with one worker, as one of a fleet if there is a Redis; returns when that is in use.
    pub(crate) fn start_in_fleet(
        stage: &Stage,
        upstream: &Upstream,
        redis: Option<SocketAddr>,
    ) -> Fallible<Self> {
        let mut contender = Self::spawn_with(SERVED, Kind::Stepgate(1), stage, upstream, redis)?;
        let (address, admin) = (contender.address, contender.admin);
        contender.process.wait_for(address)?;
        if redis.is_some() {
            let is_up = || counted(admin, "stepgate_shared_up", "").is_ok_and(|up| up == 1);
            contender.process.wait_until(is_up)?;
        }
        Ok(contender)
    }

    /// Starts it, and returns at once.
    pub(crate) fn spawn(
        place: Place,
        kind: Kind,
        stage: &Stage,
        upstream: &Upstream,
    ) -> Fallible<Self> {
        Self::spawn_with(place, kind, stage, upstream, None)
    }

    fn spawn_with(
        place: Place,
        kind: Kind,
        stage: &Stage,
        upstream: &Upstream,
        redis: Option<SocketAddr>,
    ) -> Fallible<Self> {
        let plan = Plan {
            place,
            folder: stage.folder()?,
            listen: free_address()?,
            admin: free_address()?,
            stage,
            upstream,
            redis,
        };
        let command = match kind {
            Kind::Bare(size) => plan.bare(size),
            Kind::Relay => plan.relay(),
            Kind::Stepgate(workers) => plan.stepgate(workers),
            Kind::Haproxy => plan.haproxy(include_str!("../peers/haproxy.cfg")),
            Kind::HaproxyStatus => plan.haproxy(include_str!("../peers/haproxy-status.cfg")),
            Kind::Nginx(files) => plan.nginx(files),
            Kind::Varnish => plan.varnish(),
        };
        Ok(Self {
            kind,
            address: plan.listen,
            admin: plan.admin,
            process: Process::start(kind.name(), command?)?,
        })
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn used(&self) -> Used {
        self.process.used()
    }

    pub(crate) fn resident(&self) -> u64 {
        self.process.resident()
    }

    /// The sum of a metric's samples, whatever their labels. Only stepgate has them.
    pub(crate) fn counted(&self, name: &str) -> Fallible<u64> {
        counted(self.admin, name, "")
    }

    /// The sum of those that have this label, as in `result="hit"`.
    pub(crate) fn counted_of(&self, name: &str, label: &str) -> Fallible<u64> {
        counted(self.admin, name, label)
    }
}

fn counted(admin: SocketAddr, name: &str, label: &str) -> Fallible<u64> {
    let metrics = ask(admin, "/metrics")?.text();
    let samples = metrics.lines().filter_map(|line| {
        let rest = line.strip_prefix(name)?;
        let labelled = rest.starts_with('{') || rest.starts_with(' ');
        (labelled && rest.contains(label)).then(|| rest.rsplit_once(' '))?
    });
    samples
        .map(|(_, number)| Ok(number.parse::<u64>()?))
        .sum::<Fallible<u64>>()
}

/// All that a command line or a configuration file may have to say.
struct Plan<'s> {
    place: Place,
    folder: PathBuf,
    listen: SocketAddr,
    admin: SocketAddr,
    stage: &'s Stage,
    upstream: &'s Upstream,
    /// The fleet's, if it is one of a fleet.
    redis: Option<SocketAddr>,
}

/// Added to its configuration as one of a fleet. The budget is the default.
const SHARED: &str = "
[cache.redis]
url = \"redis://{{redis}}\"
prefix = \"fleet\"
command_timeout = \"50ms\"
";

impl Plan<'_> {
    fn bare(&self, size: usize) -> Fallible<Command> {
        let mut command = self.place.command(std::env::current_exe()?);
        command.arg("bare");
        command.arg("--listen").arg(self.listen.to_string());
        command.arg("--size").arg(size.to_string());
        Ok(command)
    }

    fn relay(&self) -> Fallible<Command> {
        let mut command = self.place.command(std::env::current_exe()?);
        command.arg("relay");
        command.arg("--listen").arg(self.listen.to_string());
        command
            .arg("--upstream")
            .arg(self.upstream.address.to_string());
        Ok(command)
    }

    fn stepgate(&self, workers: u32) -> Fallible<Command> {
        let alone = include_str!("../peers/stepgate.toml");
        let file = match self.redis {
            None => self.file("stepgate.toml", alone)?,
            Some(redis) => {
                let shared = SHARED.replace("{{redis}}", &redis.to_string());
                self.file("stepgate.toml", &[alone, &shared].concat())?
            }
        };
        let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
        let mut command = self.place.command(&self.stage.stepgate);
        command
            .env("TOKIO_WORKER_THREADS", workers.to_string())
            .env("PORTKEY_API_KEY", api_key)
            .env("PORTKEY_PROVIDER_VIRTUAL_KEY", virtual_key)
            .args(["serve", "--config"])
            .arg(file)
            .arg("--listen")
            .arg(self.listen.to_string())
            .arg("--admin")
            .arg(self.admin.to_string());
        Ok(command)
    }

    fn haproxy(&self, template: &str) -> Fallible<Command> {
        let file = self.file("haproxy.cfg", template)?;
        let mut command = self.place.command("haproxy");
        // In the foreground, in one process.
        command.args(["-db", "-f"]).arg(file);
        Ok(command)
    }

    fn nginx(&self, files: Files) -> Fallible<Command> {
        let sendfile = match files {
            Files::Read | Files::ReadOpen => "off",
            Files::Sent | Files::SentOpen => "on",
        };
        let open = match files {
            Files::Read | Files::Sent => "off",
            Files::ReadOpen | Files::SentOpen => "max=10000 inactive=1h",
        };
        let template = include_str!("../peers/nginx.conf")
            .replace("{{sendfile}}", sendfile)
            .replace("{{open_file_cache}}", open);
        let file = self.file("nginx.conf", &template)?;
        let mut command = self.place.command("nginx");
        command.arg("-p").arg(&self.folder).arg("-c").arg(file);
        // Before it has read where its log is.
        command.args(["-e", "stderr"]);
        Ok(command)
    }

    fn varnish(&self) -> Fallible<Command> {
        let file = self.file("varnish.vcl", include_str!("../peers/varnish.vcl"))?;
        let mut command = self.place.command("varnishd");
        command
            .args(["-F", "-j", "none", "-n"])
            .arg(self.folder.join("work"))
            .arg("-a")
            .arg(self.listen.to_string())
            .arg("-f")
            .arg(file)
            .args(["-s", "malloc,1G", "-p", "thread_pools=1"]);
        Ok(command)
    }

    /// The file with its `{{words}}` filled in.
    fn file(&self, name: &str, template: &str) -> Fallible<PathBuf> {
        let upstream = self.upstream.address;
        let ca = self.stage.authority.file.display().to_string();
        let (scheme, tls) = if self.upstream.is_tls() {
            let tls = format!("ssl verify required ca-file {ca} sni str({NAME}) verifyhost {NAME}");
            ("https", tls)
        } else {
            ("http", String::new())
        };
        let [(_, api_key), (_, virtual_key)] = CREDENTIALS;
        let words = [
            ("listen", self.listen.to_string()),
            ("upstream", upstream.to_string()),
            ("upstream_host", upstream.ip().to_string()),
            ("upstream_port", upstream.port().to_string()),
            ("scheme", scheme.to_owned()),
            ("tls", tls),
            ("ca", ca),
            ("name", NAME.to_owned()),
            ("folder", self.folder.display().to_string()),
            ("api_key", api_key.to_owned()),
            ("virtual_key", virtual_key.to_owned()),
        ];
        let fill = |text: String, (word, value): &(&str, String)| {
            text.replace(&format!("{{{{{word}}}}}"), value)
        };
        let text = words.iter().fold(template.to_owned(), fill);
        if let Some((_, rest)) = text.split_once("{{") {
            let word = rest.split("}}").next().unwrap_or(rest);
            return Err(format!("{name}: nothing to put for {word}").into());
        }
        let file = self.folder.join(name);
        fs::write(&file, text)?;
        Ok(file)
    }
}
