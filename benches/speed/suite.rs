//! A command that measures in parts: its flags, its parts in turn, its page of results.

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::value_parser;

use crate::Fallible;
use crate::contender::Stage;
use crate::report::Section;

#[derive(clap::Args)]
pub(crate) struct Flags {
    /// The binary to be measured. Not the one that cargo builds for benches: test features slow it.
    #[arg(long)]
    stepgate: PathBuf,
    /// How often everything is measured.
    #[arg(long, value_parser = value_parser!(u32).range(1..))]
    rounds: Option<u32>,
    /// For how long each time.
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..))]
    seconds: u32,
    /// Only the parts whose names begin so.
    #[arg(long)]
    only: Option<String>,
    /// Where the page goes, if it is whole.
    #[arg(long)]
    write: Option<PathBuf>,
}

/// How much is measured.
#[derive(Clone, Copy)]
pub(crate) struct Effort {
    pub(crate) rounds: u32,
    pub(crate) seconds: u32,
}

pub(crate) type Part = fn(&Stage, Effort) -> Fallible<Section>;

pub(crate) struct Suite {
    pub(crate) parts: &'static [(&'static str, Part)],
    /// By default, and the least for a page: fewer do not stand for anything on a machine that others
    /// use, too.
    pub(crate) rounds: u32,
    /// The page's beginning, before the sections.
    pub(crate) opening: fn(Effort, &[Section]) -> String,
}

impl Suite {
    pub(crate) fn run(&self, flags: &Flags) -> ExitCode {
        match self.measure(flags) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                let _ = writeln!(io::stderr(), "speed: {error}");
                ExitCode::FAILURE
            }
        }
    }

    fn measure(&self, flags: &Flags) -> Fallible<()> {
        // Ten thousand callers need as many descriptors, here and in what is started from here.
        rlimit::increase_nofile_limit(u64::MAX)?;
        let chosen = self.chosen(flags)?;
        let effort = Effort {
            rounds: flags.rounds.unwrap_or(self.rounds),
            seconds: flags.seconds,
        };
        let stage = Stage::new(&flags.stepgate)?;
        let mut sections = Vec::new();
        for (name, part) in &chosen {
            writeln!(io::stderr(), "==> {name}")?;
            let section = part(&stage, effort)?;
            writeln!(io::stdout(), "{}", section.markdown())?;
            sections.push(section);
        }
        let opening = (self.opening)(effort, &sections);
        writeln!(io::stdout(), "{opening}")?;
        let Some(file) = &flags.write else {
            return Ok(());
        };
        let shown = file.display();
        if chosen.len() < self.parts.len() || effort.rounds < self.rounds {
            let needed = self.rounds;
            writeln!(
                io::stderr(),
                "==> {shown} stays as it is: it takes all parts and {needed} rounds"
            )?;
            return Ok(());
        }
        let page = sections.iter().map(Section::markdown);
        let page: Vec<_> = std::iter::once(opening).chain(page).collect();
        std::fs::write(file, page.join("\n"))?;
        writeln!(io::stderr(), "==> written: {shown}")?;
        Ok(())
    }

    fn chosen(&self, flags: &Flags) -> Fallible<Vec<(&'static str, Part)>> {
        let only = flags.only.as_deref().unwrap_or_default();
        let chosen = self.parts.iter().filter(|(name, _)| name.starts_with(only));
        let chosen: Vec<_> = chosen.copied().collect();
        if chosen.is_empty() {
            let names: Vec<_> = self.parts.iter().map(|(name, _)| *name).collect();
            let names = names.join(", ");
            return Err(format!("no part is called {only}; there are {names}").into());
        }
        Ok(chosen)
    }
}
