//! Which steps are asked for, and what a right answer to that is.

use std::error::Error;
use std::time::Duration;

use crate::Fallible;
use crate::ask::{Answer, ask};
use crate::clock::pause;
use crate::contender::{Contender, Kind};
use crate::origin::{of_path, step};
use crate::upstream::Upstream;

/// What upstreams send for a message; code interpreters' and file searches' answers are larger.
pub(crate) const SMALL: usize = 790;

/// Asked again so often until it is in a cache: some store a little after they answer.
const FILLS: u32 = 50;

const FOLDER: &str = "/v1/threads/thread_1/runs/run_1/steps/";

/// The path of a final step of this size. Any further word makes it another one.
pub(crate) fn done(size: usize, word: &str) -> String {
    format!("{FOLDER}done-{size}-0-{word}")
}

/// The path of a step in progress, so many milliseconds away.
pub(crate) fn live(size: usize, away: u32, word: &str) -> String {
    format!("{FOLDER}live-{size}-{away}-{word}")
}

/// Puts the step into its cache, then makes sure that it answers from there and rightly.
pub(crate) fn keep(contender: &Contender, upstream: &Upstream, path: &str) -> Fallible<()> {
    let mut looks = 0;
    loop {
        let before = upstream.asked()?;
        let answer = ask(contender.address, path)?;
        let fetches = upstream.asked()? - before;
        check(contender, path, &answer)?;
        if fetches == 0 {
            return says(contender, path, &answer, &["; hit"]);
        }
        if looks == FILLS {
            return Err(wrong(contender, path, "it is fetched again every time"));
        }
        looks += 1;
        pause(Duration::from_millis(2));
    }
}

/// Makes sure that it fetches the step whenever it is asked, and answers rightly.
pub(crate) fn forward(contender: &Contender, upstream: &Upstream, path: &str) -> Fallible<()> {
    for _ in 0..2 {
        let before = upstream.asked()?;
        let answer = ask(contender.address, path)?;
        let fetches = upstream.asked()? - before;
        check(contender, path, &answer)?;
        if fetches != 1 {
            let why = format!("asked once, it fetched {fetches} times");
            return Err(wrong(contender, path, &why));
        }
        let words = ["fwd=uri-miss", "fwd-status=200", "detail=not_final"];
        says(contender, path, &answer, &words)?;
    }
    Ok(())
}

/// Status, type and the very bytes.
fn check(contender: &Contender, path: &str, answer: &Answer) -> Fallible<()> {
    let body = if let Kind::Bare(size) = contender.kind {
        step(["thread_1", "run_1", "step_1"], "completed", size)
    } else {
        of_path(path).ok_or("no such step")?
    };
    if answer.status != 200 {
        let why = format!("status {}: {}", answer.status, answer.text());
        return Err(wrong(contender, path, &why));
    }
    if answer.header("content-type") != Some("application/json") {
        return Err(wrong(contender, path, "another content-type"));
    }
    if answer.body != body.as_bytes() {
        let sizes = format!("{} bytes, not the {}", answer.body.len(), body.len());
        return Err(wrong(contender, path, &format!("another body: {sizes}")));
    }
    Ok(())
}

/// What stepgate itself says about it.
fn says(contender: &Contender, path: &str, answer: &Answer, words: &[&str]) -> Fallible<()> {
    if !matches!(contender.kind, Kind::Stepgate(_)) {
        return Ok(());
    }
    let said = answer.header("cache-status").unwrap_or_default();
    if words.iter().all(|word| said.contains(word)) {
        return Ok(());
    }
    let why = format!("cache-status says {said:?}, not {words:?}");
    Err(wrong(contender, path, &why))
}

fn wrong(contender: &Contender, path: &str, why: &str) -> Box<dyn Error> {
    format!(
        "{}: a wrong answer for {path}: {why}",
        contender.kind.name()
    )
    .into()
}
