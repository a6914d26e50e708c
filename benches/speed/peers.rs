//! stepgate beside its peers: every part of the comparison, what it is to reach, the results' file.

mod absolute;
mod comparison;
mod pace;
mod pollers;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use crate::Fallible;
use crate::contender::Stage;
use crate::machine;
use crate::report::{Section, reaches};
use comparison::Comparison;

/// Fewer do not stand for anything on a machine that others use, too.
const WRITTEN_FROM: u32 = 8;

#[derive(clap::Args)]
pub(crate) struct Peers {
    /// The binary to be measured. Not the one that cargo builds for benches: test features slow it.
    #[arg(long)]
    stepgate: PathBuf,
    /// How often everything is measured.
    #[arg(long, default_value_t = WRITTEN_FROM, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
    /// For how long each time.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only the parts whose names begin so.
    #[arg(long)]
    only: Option<String>,
    /// Where the results go, if they are whole: all parts, eight rounds or more.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

type Part = fn(&Stage, Effort) -> Fallible<Section>;

const PARTS: [(&str, Part); 10] = [
    ("hit-790", |stage, effort| {
        Comparison::hit_small().run(stage, effort)
    }),
    ("hit-72k", |stage, effort| {
        Comparison::hit(72).run(stage, effort)
    }),
    ("hit-840k", |stage, effort| {
        Comparison::hit(840).run(stage, effort)
    }),
    ("forward-plain", |stage, effort| {
        Comparison::forward().run(stage, effort)
    }),
    ("forward-tls", |stage, effort| {
        Comparison::forward_tls().run(stage, effort)
    }),
    ("pollers", pollers::run),
    ("workers", |stage, effort| {
        Comparison::workers().run(stage, effort)
    }),
    ("pace", pace::run),
    ("memory", absolute::memory),
    ("start", absolute::start),
];

impl Peers {
    pub(crate) fn run(&self) -> ExitCode {
        match self.measure() {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "peers: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn measure(&self) -> Fallible<()> {
        let only = self.only.as_deref().unwrap_or_default();
        let chosen: Vec<_> = PARTS.iter().filter(|p| p.0.starts_with(only)).collect();
        if chosen.is_empty() {
            let names = PARTS.map(|part| part.0).join(", ");
            return Err(format!("no part is called {only}; there are {names}").into());
        }
        let effort = Effort {
            rounds: self.rounds,
            seconds: self.seconds,
        };
        let stage = Stage::new(&self.stepgate)?;
        let mut sections = Vec::new();
        for (name, part) in &chosen {
            writeln!(io::stderr(), "==> {name}")?;
            let section = part(&stage, effort)?;
            writeln!(io::stdout(), "{}", section.markdown())?;
            sections.push(section);
        }
        let whole = chosen.len() == PARTS.len() && self.rounds >= WRITTEN_FROM;
        let page = self.page(&sections);
        let (summary, _) = page.split_once("\n## ").unwrap_or((&page, ""));
        writeln!(io::stdout(), "{summary}")?;
        match &self.write {
            Some(file) if whole => {
                std::fs::write(file, page)?;
                writeln!(io::stderr(), "==> written to {}", file.display())?;
            }
            Some(file) => {
                let file = file.display();
                writeln!(
                    io::stderr(),
                    "==> {file} stays as it is: it takes all parts and {WRITTEN_FROM} rounds"
                )?;
            }
            None => {}
        }
        Ok(())
    }

    fn page(&self, sections: &[Section]) -> String {
        let Self {
            rounds, seconds, ..
        } = self;
        let table = reaches(sections.iter().flat_map(|section| &section.reaches));
        let parts: Vec<_> = sections.iter().map(Section::markdown).collect();
        format!(
            "# stepgate beside its peers\n\n\
             Written by `benches/peers/run --rounds {rounds} --seconds {seconds}`; what it means is in \
             the README.\n\n{}\n\
             Figures are medians of {rounds} rounds of {seconds} s, in which all contenders take turns; \
             a figure against a peer is the ratio of the medians, \"rounds\" the least and the most \
             of the ratios round by round.\n\n{}\n{}",
            machine::described(),
            table.markdown(),
            parts.join("\n")
        )
    }
}
