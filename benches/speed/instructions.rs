//! What a request costs in instructions in user space: the one figure that a busy machine leaves as
//! it is, so that a bound on it can stand close.
//!
//! Two runs under callgrind that differ only in how often the work is done; what lies between them,
//! by how often. Start, end and what happens once cancel out. The kernel's part is not seen.

mod caller;
mod callgrind;
mod server;
mod work;

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use caller::Head;
use work::{Bench, Work};

type Failure = Box<dyn Error>;

/// What is counted, and how much it may be: what it was when the bound was set, and 5 %. Runs differ
/// by up to 2 %, with what malloc's free lists hold; the rest is another libc's or processor's.
/// Whoever makes a row cheaper lowers its bound.
const ROWS: [Row; 7] = [
    Row {
        name: "bare hyper, hit 790 B",
        work: Work::Bare,
        bound: 9_550,
        reach: Reach::None,
    },
    Row {
        name: "hit 790 B",
        work: Work::Hit(Head::Bare),
        bound: 13_200,
        reach: Reach::OfBare(125),
    },
    Row {
        name: "hit 790 B, an SDK's headers",
        work: Work::Hit(Head::Sdk),
        bound: 28_900,
        reach: Reach::None,
    },
    Row {
        name: "bare hyper on both sides, forward 790 B",
        work: Work::Relay,
        bound: 26_400,
        reach: Reach::None,
    },
    Row {
        name: "forward of a live step, 790 B",
        work: Work::Forward,
        bound: 52_600,
        reach: Reach::Absolute(35_000),
    },
    Row {
        name: "join, 64 pollers of a live step",
        work: Work::Join,
        bound: 20_200,
        reach: Reach::None,
    },
    Row {
        name: "verdict, 790 B",
        work: Work::Verdict,
        bound: 5_570,
        reach: Reach::None,
    },
];

struct Row {
    name: &'static str,
    work: Work,
    bound: u64,
    reach: Reach,
}

/// Where a row is to get to. Said, and not yet insisted on.
#[derive(Clone, Copy)]
enum Reach {
    None,
    /// Hundredths of the first row.
    OfBare(u64),
    Absolute(u64),
}

#[derive(clap::Args)]
pub(crate) struct Instructions {
    /// The stepgate to count: of a plain release build, since one that is built together with this
    /// program has tokio's clock for tests.
    #[arg(long)]
    stepgate: PathBuf,
    /// Keeps what callgrind writes, for callgrind_annotate.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Instructions {
    pub(crate) fn run(self) -> ExitCode {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        match runtime.block_on(self.count()) {
            Ok(figures) => report(&figures),
            Err(error) => {
                let _ = writeln!(std::io::stderr(), "instructions: {error}");
                ExitCode::FAILURE
            }
        }
    }

    /// Instructions per request, row by row.
    async fn count(&self) -> Result<Vec<u64>, Failure> {
        let (own, folder) = (std::env::current_exe()?, tempfile::tempdir()?);
        let keep = self.keep.as_deref().unwrap_or(folder.path());
        std::fs::create_dir_all(keep)?;
        let bench = Bench {
            own: &own,
            stepgate: &self.stepgate,
            folder: folder.path(),
            keep,
        };
        let mut figures = Vec::new();
        for row in &ROWS {
            let [few, many] = row.work.times();
            let less = bench.count(row.work, few).await;
            let less = less.map_err(|error| format!("{}: {error}", row.name))?;
            let more = bench.count(row.work, many).await;
            let more = more.map_err(|error| format!("{}: {error}", row.name))?;
            let requests = (many - few) * row.work.requests();
            let grown = more.checked_sub(less).filter(|grown| *grown > 0);
            let grown = grown.ok_or_else(|| format!("{}: no more for more requests", row.name))?;
            figures.push(grown / requests);
        }
        Ok(figures)
    }
}

/// Prints the table, and what is above its bound.
fn report(figures: &[u64]) -> ExitCode {
    let mut text = String::from(
        "\n| work | instructions per request | bound | reach |\n|---|---:|---:|---|\n",
    );
    let mut above = String::new();
    for (row, figure) in ROWS.iter().zip(figures) {
        let (name, bound) = (row.name, row.bound);
        let reach = reached(row.reach, *figure, figures[0]);
        let cells = [name, &grouped(*figure), &grouped(bound), &reach].join(" | ");
        text.push_str(&format!("| {cells} |\n"));
        if *figure > bound {
            let percent = (figure - bound) as f64 * 100.0 / bound as f64;
            above.push_str(&format!(
                "{name}: {} above its bound ({percent:.1} %)\n",
                grouped(figure - bound)
            ));
        }
    }
    // A closed pipe is the reader's wish.
    let _ = write!(std::io::stdout(), "{text}");
    let _ = write!(std::io::stderr(), "{above}");
    if above.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn reached(reach: Reach, figure: u64, bare: u64) -> String {
    let yes = |within: bool| if within { "yes" } else { "no" };
    match reach {
        Reach::None => String::new(),
        Reach::OfBare(hundredths) => format!(
            "{:.2} × bare hyper, at most {:.2}: {}",
            figure as f64 / bare as f64,
            hundredths as f64 / 100.0,
            yes(figure * 100 <= bare * hundredths)
        ),
        Reach::Absolute(most) => {
            format!("at most {}: {}", grouped(most), yes(figure <= most))
        }
    }
}

fn grouped(number: u64) -> String {
    if number < 1000 {
        return number.to_string();
    }
    format!("{},{:03}", grouped(number / 1000), number % 1000)
}
