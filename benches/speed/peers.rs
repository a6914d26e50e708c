//! stepgate beside its peers: every part of the comparison, and what it is to reach.

mod absolute;
mod comparison;
mod pace;
mod pollers;

use std::process::ExitCode;

use crate::machine;
use crate::report::{Section, reaches};
use crate::suite::{Effort, Flags, Suite};
use comparison::Comparison;

#[derive(clap::Args)]
pub(crate) struct Peers {
    #[command(flatten)]
    flags: Flags,
}

const SUITE: Suite = Suite {
    parts: &[
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
    ],
    rounds: 8,
    opening,
};

impl Peers {
    pub(crate) fn run(&self) -> ExitCode {
        SUITE.run(&self.flags)
    }
}

fn opening(Effort { rounds, seconds }: Effort, sections: &[Section]) -> String {
    let table = reaches(sections.iter().flat_map(|section| &section.reaches));
    format!(
        "# stepgate beside its peers\n\n\
         Written by `benches/peers/run --rounds {rounds} --seconds {seconds}`; what it means is in the \
         README.\n\n{}{}\n\
         Figures are medians of {rounds} rounds of {seconds} s, in which all contenders take turns. A \
         figure against a peer is the ratio of the medians; \"rounds\" has the least and the most of \
         the ratios round by round.\n\n{}",
        machine::described(),
        machine::peers(),
        table.markdown(),
    )
}
