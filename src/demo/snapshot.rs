//! Formats the demo's figures as text of at most 80 columns. Knows no terminal.

use std::net::SocketAddr;
use std::time::Duration;

use indicatif::HumanCount;

use super::checker::{Figures, Latency};
use super::sandbox::Status;

/// Holds the figures at one moment: what the pollers saw, and what the sandbox counted.
#[derive(Debug, Clone)]
pub(super) struct Snapshot {
    pub(super) figures: Figures,
    /// Requests that reached the sandbox, by its own count.
    pub(super) fetches: u64,
    pub(super) elapsed: Duration,
}

/// The path in the example of the intro. The sandbox accepts any ids.
const EXAMPLE: &str = "/v1/threads/thread_1/runs/run_1/steps/step_1";

/// The header of the rows that [`Snapshot::row`] returns.
pub(super) const ROW_HEADER: &str =
    "      time      polls    fetches    cut       hit      fetch  finished  problems";

/// Returns what the demo shows and how to take part. `taken` is the default address that was not free.
pub(super) fn intro(
    pollers: usize,
    latency: Duration,
    (data, admin): (SocketAddr, SocketAddr),
    taken: Option<&str>,
) -> String {
    let latency = duration(latency);
    let other_ports = taken.map(|taken| {
        format!(
            "{taken} is not free (is another stepgate running?), so the ports below\n\
             are other ones.\n\n"
        )
    });
    let other_ports = other_ports.unwrap_or_default();
    format!(
        "stepgate demo: {pollers} pollers poll run steps through stepgate. A sandbox plays the\n\
         upstream, {latency} away.\n\
         \n\
         While a step is in progress, stepgate answers each poll from a fetch that\n\
         started after the poll arrived. Once the step is final, stepgate answers from\n\
         memory: the same bytes, without a fetch. The pollers send no key; stepgate\n\
         injects the sandbox's.\n\
         \n\
         {other_ports}\
         Take part (repeat it until Cache-Status says hit):\n  \
         curl -i http://{data}{EXAMPLE}\n\
         Watch it in a browser:\n  \
         http://{admin}/\n"
    )
}

impl Snapshot {
    /// Returns the share of polls that cost no fetch, in percent. A client beside the pollers makes it
    /// smaller, never larger.
    pub(super) fn traffic_cut(&self) -> u64 {
        let saved = self.figures.polls.saturating_sub(self.fetches);
        saved * 100 / self.figures.polls.max(1)
    }

    /// Returns the number of answered polls and their rate.
    pub(super) fn polls(&self) -> String {
        let rate = Duration::from_secs(self.figures.polls)
            .div_duration_f64(self.elapsed.max(Duration::from_secs(1)));
        format!("{:<9} {rate:.0} per second", count(self.figures.polls))
    }

    /// Returns both median latencies and their ratio.
    pub(super) fn medians(&self) -> String {
        let Figures { hit, fetch, .. } = self.figures;
        let ratio = match (hit, fetch) {
            (Some(hit), Some(fetch)) => {
                let factor = fetch.median.div_duration_f64(hit.median);
                format!(" ({factor:.0} times faster)")
            }
            _ => String::new(),
        };
        format!("hit {}, fetch {}{ratio}", median(hit), median(fetch))
    }

    /// Returns how many steps are live and how many are final.
    pub(super) fn steps(&self) -> String {
        let (live, finished) = (count(self.figures.live), count(self.finished()));
        format!("{live} in progress, {finished} finished")
    }

    /// Returns how many answers were wrong, and the latest error.
    pub(super) fn checks(&self) -> String {
        let figures = &self.figures;
        let latest = match &figures.last_error {
            Some(error) => format!(" (latest: {error})"),
            None => String::new(),
        };
        format!(
            "{} stale, {} wrong, {} errors{latest}",
            figures.stale, figures.wrong, figures.errors
        )
    }

    /// Returns the number of polls that were stale, wrong or failed.
    pub(super) fn problems(&self) -> u64 {
        self.figures.stale + self.figures.wrong + self.figures.errors
    }

    fn finished(&self) -> u64 {
        self.figures.finished.values().sum()
    }

    /// Returns the snapshot as a row below [`ROW_HEADER`], with a second line if there are problems.
    pub(super) fn row(&self) -> String {
        let details = match self.problems() {
            0 => String::new(),
            _ => format!("\n{:>10}  {}", "", self.checks()),
        };
        format!(
            "{:>10}  {:>9}  {:>9}  {:>3} %  {:>8}  {:>9}  {:>8}  {:>8}{details}",
            duration(Duration::from_secs(self.elapsed.as_secs())),
            count(self.figures.polls),
            count(self.fetches),
            self.traffic_cut(),
            median(self.figures.hit),
            median(self.figures.fetch),
            count(self.finished()),
            count(self.problems()),
        )
    }

    /// Returns the summary at the end of the demo.
    pub(super) fn summary(&self) -> String {
        let figures = &self.figures;
        let finished: Vec<String> = Status::ALL
            .into_iter()
            .filter_map(|status| Some((figures.finished.get(&status)?, status)))
            .map(|(number, status)| format!("{} {}", count(*number), status.as_str()))
            .collect();
        let finished = match finished.is_empty() {
            true => "none".to_owned(),
            false => finished.join(", "),
        };
        let p99 = |latency: Option<Latency>| latency.map_or("-".to_owned(), |l| duration(l.p99));
        format!(
            "After {}:\n  \
             polls answered     {}\n  \
             upstream fetches   {}\n  \
             \u{20} without stepgate {}\n  \
             \u{20} with cache only  {}\n  \
             traffic cut        {} %\n  \
             hit latency        {} median, {} p99\n  \
             fetch latency      {} median, {} p99\n  \
             steps finished     {finished}\n  \
             checked            {}\n\
             \n{}\n",
            duration(self.elapsed),
            count(figures.polls),
            count(self.fetches),
            count(figures.polls),
            // Without coalescing, each poll that is not a hit would be a fetch.
            count(figures.polls - figures.hits),
            self.traffic_cut(),
            median(figures.hit),
            p99(figures.hit),
            median(figures.fetch),
            p99(figures.fetch),
            self.checks(),
            self.comparison(),
        )
    }

    /// Compares fetches and waiting time with and without stepgate. Without stepgate, every poll would
    /// have waited as long as the average poll that was answered by a fetch.
    fn comparison(&self) -> String {
        let Figures {
            polls,
            hits,
            waited,
            waited_for_fetches,
            ..
        } = self.figures;
        if polls == hits {
            return "No poll was answered by a fetch, so there is nothing to compare.".to_owned();
        }
        // Both are far below 2^53, up to where f64 counts exactly.
        let ratio = Duration::from_secs(polls).div_duration_f64(Duration::from_secs(polls - hits));
        format!(
            "Without stepgate  {} fetches, about {} of waiting in sum\n\
             With stepgate     {} fetches, {} of waiting in sum",
            count(polls),
            duration(waited_for_fetches.mul_f64(ratio)),
            count(self.fetches),
            duration(waited),
        )
    }
}

/// Formats a number like `1,234`.
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn median(latency: Option<Latency>) -> String {
    latency.map_or("-".to_owned(), |latency| duration(latency.median))
}

/// Formats a duration with the digits that matter: `0.34 ms`, `121 ms`, `2.4 s`, `3 min 31 s`,
/// `2 h 5 min`. Whole seconds below 100 have no decimal.
pub(super) fn duration(duration: Duration) -> String {
    let (ms, seconds) = (duration.as_secs_f64() * 1000.0, duration.as_secs_f64());
    let whole = duration.as_secs();
    if duration.subsec_nanos() == 0 && whole < 100 {
        format!("{whole} s")
    } else if ms < 9.95 {
        format!("{ms:.2} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if seconds < 99.5 {
        format!("{seconds:.1} s")
    } else if whole < 60 * 60 {
        format!("{} min {} s", whole / 60, whole % 60)
    } else {
        format!("{} h {} min", whole / 3600, whole / 60 % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn latency(micros: u64) -> Option<Latency> {
        Some(Latency {
            median: Duration::from_micros(micros),
            p99: Duration::from_micros(micros * 3),
        })
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            figures: Figures {
                polls: 2000,
                hits: 1200,
                live: 41,
                finished: HashMap::from([(Status::Completed, 1100), (Status::Failed, 7)]),
                hit: latency(400),
                fetch: latency(120_000),
                waited: Duration::from_secs(97),
                waited_for_fetches: Duration::from_secs(96),
                ..Figures::default()
            },
            fetches: 801,
            elapsed: Duration::from_secs(20),
        }
    }

    #[track_caller]
    fn assert_fits_80_columns(text: &str) {
        for line in text.lines() {
            assert!(line.chars().count() <= 80, "{line}");
        }
    }

    #[test]
    fn a_row_has_every_figure_below_its_header() {
        let expected =
            "      20 s      2,000        801   59 %   0.40 ms     120 ms     1,107         0";
        assert_eq!(snapshot().row(), expected);
        assert_eq!(expected.len(), ROW_HEADER.len());
    }

    #[test]
    fn the_text_fits_80_columns_after_a_day_too() {
        let mut snapshot = snapshot();
        snapshot.elapsed = Duration::from_secs(24 * 60 * 60);
        snapshot.figures.polls = 9_999_999;
        snapshot.figures.waited_for_fetches = Duration::from_secs(9_999_999);
        snapshot.fetches = 9_000_000;
        assert_fits_80_columns(&snapshot.row());
        assert_fits_80_columns(&snapshot.summary());
        let addresses = (
            "127.0.0.1:58180".parse().unwrap(),
            "127.0.0.1:58181".parse().unwrap(),
        );
        let latency = Duration::from_millis(120);
        let intro = intro(1000, latency, addresses, Some("127.0.0.1:8180"));
        assert_fits_80_columns(&intro);
    }

    #[test]
    fn durations_have_the_digits_that_matter() {
        for (millis, text) in [
            (0.34, "0.34 ms"),
            (121.2, "121 ms"),
            (2_412.0, "2.4 s"),
            (20_000.0, "20 s"),
            (211_000.0, "3 min 31 s"),
            (3_599_000.0, "59 min 59 s"),
            (3_600_000.0, "1 h 0 min"),
            (7_530_000.0, "2 h 5 min"),
            (180_000_000.0, "50 h 0 min"),
        ] {
            let of = Duration::from_secs_f64(millis / 1000.0);
            assert_eq!(duration(of), text, "{millis} ms");
        }
    }

    #[test]
    fn the_summary_compares_with_and_without_stepgate() {
        let summary = snapshot().summary();
        assert!(!summary.contains('\u{1b}'));
        for part in [
            "After 20 s:",
            "  without stepgate 2,000\n",
            "traffic cut        59 %",
            "steps finished     1,100 completed, 7 failed\n",
            "Without stepgate  2,000 fetches, about 4 min 0 s of waiting in sum\n",
            "With stepgate     801 fetches, 97 s of waiting in sum\n",
        ] {
            assert!(summary.contains(part), "{part}: {summary}");
        }
    }

    #[test]
    fn the_traffic_cut_is_rounded_down_and_never_negative() {
        let cut = |polls, fetches| {
            let mut snapshot = snapshot();
            (snapshot.figures.polls, snapshot.fetches) = (polls, fetches);
            snapshot.traffic_cut()
        };
        assert_eq!(
            [cut(0, 0), cut(0, 5), cut(100, 1), cut(100, 100)],
            [0, 0, 99, 0]
        );
        assert_eq!((cut(10, 11), cut(1000, 1)), (0, 99));
    }

    #[test]
    fn problems_are_shown() {
        let mut snapshot = snapshot();
        assert_eq!(snapshot.problems(), 0);
        snapshot.figures.errors = 2;
        snapshot.figures.last_error = Some("status 502 Bad Gateway".to_owned());
        assert_eq!(snapshot.problems(), 2);
        let row = snapshot.row();
        assert!(
            row.ends_with("2 errors (latest: status 502 Bad Gateway)"),
            "{row}"
        );
    }

    #[test]
    fn a_demo_without_answers_says_so() {
        let snapshot = Snapshot {
            figures: Figures::default(),
            fetches: 0,
            elapsed: Duration::ZERO,
        };
        assert!(snapshot.summary().contains("No poll was answered"));
        assert_eq!(snapshot.medians(), "hit -, fetch -");
    }

    #[test]
    fn the_intro_has_a_command_to_paste() {
        let addresses = (
            "127.0.0.1:8180".parse().unwrap(),
            "127.0.0.1:8181".parse().unwrap(),
        );
        let intro = intro(24, Duration::from_millis(120), addresses, None);
        assert!(!intro.contains("not free"), "{intro}");
        let command = format!("  curl -i http://127.0.0.1:8180{EXAMPLE}");
        assert!(intro.lines().any(|line| line == command), "{intro}");
    }
}
