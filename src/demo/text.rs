//! What the demo says, as text. Knows no terminal.

use std::net::SocketAddr;
use std::time::Duration;

use indicatif::HumanCount;

use super::pollers::{Figures, Spread};
use super::sandbox::Status;

/// A moment of the demo: what the pollers saw, beside what the upstream counted.
#[derive(Debug, Clone)]
pub(super) struct Scene {
    pub(super) figures: Figures,
    /// Requests that reached the sandbox, by its own count.
    pub(super) upstream: u64,
    pub(super) elapsed: Duration,
}

/// The path of the example, any id would do.
const EXAMPLE: &str = "/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123";

/// Says what is to be seen, and how to take part; and, where the gateway is not at its usual place,
/// which address was not to be had.
pub(super) fn intro(
    pollers: usize,
    latency: Duration,
    (data, admin): (SocketAddr, SocketAddr),
    taken: Option<&str>,
) -> String {
    let latency = time(latency);
    let elsewhere = taken.map(|taken| {
        format!("{taken} is not free (is another stepgate running?), so these ports are others.\n")
    });
    let elsewhere = elsewhere.unwrap_or_default();
    format!(
        "stepgate demo: {pollers} pollers ask stepgate for run steps; a sandbox plays the upstream, \
         {latency} away.\nWhile a step is in progress, each poll is answered by a fetch that left \
         after it asked. Once the step\nis final, stepgate answers from memory: the same bytes, no \
         fetch. The pollers send no key: stepgate\ninjects the sandbox's.\n\
         \n\
         {elsewhere}\
         Take part (a few times, until cache-status says hit):\n  \
         curl -i http://{data}{EXAMPLE}\n\
         Watch it in a browser:\n  \
         http://{admin}/\n"
    )
}

impl Scene {
    /// Polls that cost no fetch, in percent. A caller beside the pollers makes it smaller, never
    /// larger.
    pub(super) fn cut(&self) -> u64 {
        let saved = self.figures.polls.saturating_sub(self.upstream);
        saved * 100 / self.figures.polls.max(1)
    }

    /// Polls answered, and how many a second.
    pub(super) fn polls(&self) -> String {
        let rate = Duration::from_secs(self.figures.polls)
            .div_duration_f64(self.elapsed.max(Duration::from_secs(1)));
        format!("{:<9} {rate:.0} a second", count(self.figures.polls))
    }

    /// The medians, and how much faster a hit is.
    pub(super) fn speed(&self) -> String {
        match (self.figures.hit, self.figures.fetch) {
            (Some(hit), Some(fetch)) => {
                let factor = fetch.median.div_duration_f64(hit.median);
                format!(
                    "hit {}, fetch {} ({factor:.0} times faster)",
                    time(hit.median),
                    time(fetch.median)
                )
            }
            (hit, fetch) => format!("hit {}, fetch {}", median(hit), median(fetch)),
        }
    }

    /// Steps live and finished.
    pub(super) fn steps(&self) -> String {
        let finished: u64 = self.figures.finished.values().sum();
        let live = count(self.figures.live);
        format!("{live} in progress, {} finished", count(finished))
    }

    /// Whether every answer was right.
    pub(super) fn checks(&self) -> String {
        let Figures {
            stale,
            wrong,
            errors,
            ..
        } = self.figures;
        let latest = match &self.figures.last_error {
            Some(error) => format!(" (latest: {error})"),
            None => String::new(),
        };
        format!("{stale} stale, {wrong} wrong, {errors} errors{latest}")
    }

    /// Whether nothing at all went wrong.
    pub(super) fn is_clean(&self) -> bool {
        (self.figures.stale, self.figures.wrong, self.figures.errors) == (0, 0, 0)
    }

    /// The scene on one line, where there is no terminal.
    pub(super) fn line(&self) -> String {
        format!(
            "{:>3} s  {} polls answered, {} upstream fetches, traffic cut {} %; {}; {}; {}",
            self.elapsed.as_secs(),
            count(self.figures.polls),
            count(self.upstream),
            self.cut(),
            self.speed(),
            self.steps(),
            self.checks(),
        )
    }

    /// What it all came to.
    pub(super) fn summary(&self) -> String {
        let figures = &self.figures;
        let endings: Vec<String> = Status::ALL
            .into_iter()
            .filter_map(|status| Some((figures.finished.get(&status)?, status)))
            .map(|(number, status)| format!("{} {}", count(*number), status.as_str()))
            .collect();
        let endings = match endings.is_empty() {
            true => "none".to_owned(),
            false => endings.join(", "),
        };
        let tail = |spread: Option<Spread>| spread.map_or("-".to_owned(), |s| time(s.p99));
        format!(
            "After {}:\n  \
             polls answered     {}\n  \
             upstream fetches   {}\n  \
             \u{20} with no gateway  {}\n  \
             \u{20} ends cached only {}\n  \
             traffic cut        {} %\n  \
             hit latency        {} median, {} p99\n  \
             fetch latency      {} median, {} p99\n  \
             steps finished     {endings}\n  \
             checked            {}\n\
             \n{}\n",
            time(self.elapsed),
            count(figures.polls),
            count(self.upstream),
            count(figures.polls),
            // Whoever was not answered from memory would have fetched, had fetches not been shared.
            count(figures.polls - figures.hits),
            self.cut(),
            median(figures.hit),
            tail(figures.hit),
            median(figures.fetch),
            tail(figures.fetch),
            self.checks(),
            self.moral(),
        )
    }

    /// What the same traffic would have cost: each poll a fetch, as long as the others were.
    fn moral(&self) -> String {
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
        // Both far below 2^53, where f64 counts exactly.
        let share = Duration::from_secs(polls).div_duration_f64(Duration::from_secs(polls - hits));
        format!(
            "Without stepgate these {} polls would have cost as many upstream fetches and about {} of \
             waiting;\nwith it they cost {} and {}.",
            count(polls),
            time(waited_for_fetches.mul_f64(share)),
            count(self.upstream),
            time(waited),
        )
    }
}

/// `1,234`
pub(super) fn count(number: u64) -> String {
    HumanCount(number).to_string()
}

fn median(spread: Option<Spread>) -> String {
    spread.map_or("-".to_owned(), |spread| time(spread.median))
}

/// With as many digits as are worth reading: `0.34 ms`, `121 ms`, `2.4 s`, `3 min 31 s`.
fn time(time: Duration) -> String {
    let (ms, seconds) = (time.as_secs_f64() * 1000.0, time.as_secs_f64());
    if ms < 9.95 {
        format!("{ms:.2} ms")
    } else if ms < 999.5 {
        format!("{ms:.0} ms")
    } else if seconds < 99.5 {
        format!("{seconds:.1} s")
    } else {
        format!("{} min {} s", time.as_secs() / 60, time.as_secs() % 60)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn spread(micros: u64) -> Option<Spread> {
        Some(Spread {
            median: Duration::from_micros(micros),
            p99: Duration::from_micros(micros * 3),
        })
    }

    fn scene() -> Scene {
        Scene {
            figures: Figures {
                polls: 2000,
                hits: 1200,
                live: 41,
                finished: HashMap::from([(Status::Completed, 1100), (Status::Failed, 7)]),
                hit: spread(400),
                fetch: spread(120_000),
                waited: Duration::from_secs(97),
                waited_for_fetches: Duration::from_secs(96),
                ..Figures::default()
            },
            upstream: 801,
            elapsed: Duration::from_secs(20),
        }
    }

    #[test]
    fn a_line_tells_it_all_without_control_codes() {
        assert_eq!(
            scene().line(),
            " 20 s  2,000 polls answered, 801 upstream fetches, traffic cut 59 %; \
             hit 0.40 ms, fetch 120 ms (300 times faster); 41 in progress, 1,107 finished; \
             0 stale, 0 wrong, 0 errors"
        );
    }

    #[test]
    fn the_summary_names_endings_and_what_it_would_have_cost() {
        let summary = scene().summary();
        assert!(!summary.contains('\u{1b}'));
        for part in [
            "After 20.0 s:",
            "  with no gateway  2,000\n",
            "traffic cut        59 %",
            "steps finished     1,100 completed, 7 failed\n",
            "these 2,000 polls would have cost as many upstream fetches and about 4 min 0 s of waiting",
            "they cost 801 and 97.0 s.",
        ] {
            assert!(summary.contains(part), "{part}: {summary}");
        }
    }

    #[test]
    fn the_cut_is_what_the_upstream_did_not_see_and_never_flattered() {
        let cut = |polls, upstream| {
            let mut scene = scene();
            (scene.figures.polls, scene.upstream) = (polls, upstream);
            scene.cut()
        };
        assert_eq!(
            [cut(0, 0), cut(0, 5), cut(100, 1), cut(100, 100)],
            [0, 0, 99, 0]
        );
        assert_eq!((cut(10, 11), cut(1000, 1)), (0, 99));
    }

    #[test]
    fn trouble_is_shown() {
        let mut scene = scene();
        assert!(scene.is_clean());
        scene.figures.errors = 2;
        scene.figures.last_error = Some("answered 502 Bad Gateway".to_owned());
        assert!(!scene.is_clean());
        assert!(
            scene
                .line()
                .ends_with("2 errors (latest: answered 502 Bad Gateway)")
        );
    }

    #[test]
    fn a_demo_in_which_nothing_was_answered_says_so() {
        let scene = Scene {
            figures: Figures::default(),
            upstream: 0,
            elapsed: Duration::ZERO,
        };
        assert!(scene.summary().contains("No poll was answered"));
        assert!(scene.line().contains("hit -, fetch -"));
    }

    #[test]
    fn the_example_is_a_line_to_paste() {
        let intro = intro(
            24,
            Duration::from_millis(120),
            (
                "127.0.0.1:8180".parse().unwrap(),
                "127.0.0.1:8181".parse().unwrap(),
            ),
            None,
        );
        assert!(!intro.contains("not free"), "{intro}");
        assert!(intro.lines().any(|line| line
            == "  curl -i http://127.0.0.1:8180/v1/threads/thread_abc123/runs/run_abc123/steps/step_abc123"));
    }
}
