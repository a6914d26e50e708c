//! Bodies as the upstream writes them: a function of the ids, the status and `include[]`.
//!
//! Two-space indented, and of the sizes that were recorded from real traffic. Nothing here reads a
//! clock: whoever knows the ids, the status and `include[]` knows the bytes.

use bytes::Bytes;
use serde::Serialize;

use super::schema::{
    Call, Code, CompletionDetails, Details, Found, LastError, Logs, Message, PromptDetails,
    Ranking, Search, Step, Text, ToolCall, Usage,
};
use super::step_spec::{Kind, Status, StepSpec};
use crate::demo::seeded_rng::SeededRng;

/// The ids of a step's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids<'a> {
    pub(super) thread: &'a str,
    pub(super) run: &'a str,
    pub(super) step: &'a str,
}

/// How long a run may take before it expires, in seconds: the upstream's own ten minutes.
const EXPIRY: u64 = 600;

/// The step as it stands in `status`.
pub(super) fn step<'a>(ids: Ids<'a>, status: Status, include: bool) -> Step<'a> {
    let nature = StepSpec::of(ids.step);
    let mut dice = SeededRng::of(&["body", ids.thread, ids.run, ids.step]);
    let created = nature.created_at;
    let ended = created + 2 + u64::from(dice.below(7));
    let at = |when: Status| (status == when).then_some(ended);
    let usage = status.is_final().then(|| usage(&mut dice));
    Step {
        id: ids.step,
        object: "thread.run.step",
        created_at: created,
        run_id: ids.run,
        assistant_id: SeededRng::of(&["assistant", ids.thread]).id("asst_"),
        thread_id: ids.thread,
        r#type: match nature.kind {
            Kind::Message => "message_creation",
            Kind::CodeInterpreter | Kind::FileSearch => "tool_calls",
        },
        status: status.as_str(),
        cancelled_at: at(Status::Cancelled),
        completed_at: at(Status::Completed),
        expires_at: match status {
            Status::InProgress | Status::Expired => Some(created + EXPIRY),
            Status::Completed | Status::Failed | Status::Cancelled => None,
        },
        failed_at: at(Status::Failed),
        last_error: (status == Status::Failed).then(|| error(&mut dice)),
        step_details: details(nature.kind, status, include, &mut dice),
        usage,
    }
}

/// `value` as the upstream writes it.
pub(super) fn written(value: &impl Serialize) -> Bytes {
    serde_json::to_vec_pretty(value)
        .expect("strings, numbers and lists of them always have a JSON form")
        .into()
}

fn usage(dice: &mut SeededRng) -> Usage {
    let (prompt, completion) = (100 + dice.below(900), 20 + dice.below(400));
    Usage {
        prompt_tokens: prompt,
        completion_tokens: completion,
        total_tokens: prompt + completion,
        prompt_token_details: PromptDetails { cached_tokens: 0 },
        completion_tokens_details: CompletionDetails {
            reasoning_tokens: 0,
        },
    }
}

fn error(dice: &mut SeededRng) -> LastError {
    match dice.below(2) {
        0 => LastError {
            code: "rate_limit_exceeded",
            message: "You exceeded your current quota, please check your plan and billing details.",
        },
        1.. => LastError {
            code: "server_error",
            message: "Sorry, something went wrong.",
        },
    }
}

/// A live tool step has called nothing yet: that is what makes live bodies small.
fn details(kind: Kind, status: Status, include: bool, dice: &mut SeededRng) -> Details {
    match kind {
        Kind::Message => Details::MessageCreation {
            message_creation: Message {
                message_id: dice.id("msg_"),
            },
        },
        Kind::CodeInterpreter | Kind::FileSearch if !status.is_final() => Details::ToolCalls {
            tool_calls: Vec::new(),
        },
        Kind::CodeInterpreter => Details::ToolCalls {
            tool_calls: vec![ToolCall {
                id: dice.id("call_"),
                call: Call::CodeInterpreter {
                    code_interpreter: code(dice),
                },
            }],
        },
        Kind::FileSearch => Details::ToolCalls {
            tool_calls: vec![ToolCall {
                id: dice.id("call_"),
                call: Call::FileSearch {
                    file_search: search(include, dice),
                },
            }],
        },
    }
}

fn code(dice: &mut SeededRng) -> Code {
    const LINES: [&str; 8] = [
        "frame = pd.read_csv('/mnt/data/invoices.csv', parse_dates=['due'])\n",
        "late = frame[frame['due'] < today].sort_values('amount')\n",
        "totals = late.groupby('customer')['amount'].sum()\n",
        "print(f\"{len(late)} overdue — {totals.sum():.2f} €\")\n",
        "# what remains is compared with the ledger\n",
        "ledger = {row.id: row.balance for row in book.itertuples()}\n",
        "assert abs(totals.sum() - sum(ledger.values())) < 0.01\n",
        "totals.nlargest(10).plot.barh(title='Overdue by customer')\n",
    ];
    let lines = 2 + dice.below(12);
    let input = (0..lines).map(|_| dice.pick(&LINES)).collect();
    let logs = format!("{} overdue — {}.00 €\n", dice.below(90), dice.below(90_000));
    Code {
        input,
        outputs: vec![Logs {
            r#type: "logs",
            logs,
        }],
    }
}

/// One search in 64 finds very much: the largest bodies seen were about 840 KB.
fn search(include: bool, dice: &mut SeededRng) -> Search {
    let (count, length) = match dice.below(64) {
        0 => (48, 17_000),
        1.. => (1 + dice.below(20), 1_200 + dice.below(2_000)),
    };
    let results = (0..count).map(|rank| Found {
        file_id: dice.id("file-"),
        file_name: format!("handbook-{}.md", dice.below(1000)),
        score: 0.95 - 0.018 * f64::from(rank),
        content: include.then(|| {
            [Text {
                r#type: "text",
                text: prose(length as usize, dice),
            }]
        }),
    });
    Search {
        results: results.collect(),
        ranking_options: Ranking {
            ranker: "default_2024_08_21",
            score_threshold: 0.0,
        },
    }
}

fn prose(length: usize, dice: &mut SeededRng) -> String {
    const WORDS: [&str; 16] = [
        "the",
        "payment",
        "is",
        "due",
        "within",
        "thirty",
        "days",
        "of",
        "receipt",
        "—",
        "naïve",
        "\"net\"",
        "invoice",
        "clause",
        "7.3",
        "applies.\n",
    ];
    let mut text = String::with_capacity(length + 10);
    while text.len() < length {
        text.push_str(dice.pick(&WORDS));
        text.push(' ');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of_kind(kind: Kind) -> impl Iterator<Item = String> {
        (0..3000)
            .map(|n| SeededRng::of(&["sizes", &n.to_string()]).id("step_"))
            .filter(move |id| StepSpec::of(id).kind == kind)
    }

    fn body(step: &str, status: Status, include: bool) -> Bytes {
        let ids = Ids {
            thread: "thread_0123456789abcdefghijklmn",
            run: "run_0123456789abcdefghijklmn",
            step,
        };
        written(&super::step(ids, status, include))
    }

    fn sizes(kind: Kind, status: Status, include: bool) -> Vec<usize> {
        of_kind(kind)
            .map(|id| body(&id, status, include).len())
            .collect()
    }

    #[test]
    fn sizes_are_those_of_real_traffic() {
        use Kind::{CodeInterpreter, FileSearch, Message};
        use Status::{Completed, InProgress};
        for (kind, status, range) in [
            (Message, InProgress, 450..700),
            (CodeInterpreter, InProgress, 450..600),
            (FileSearch, InProgress, 450..600),
            (Message, Completed, 740..840),
            (CodeInterpreter, Completed, 1050..1900),
        ] {
            let sizes = sizes(kind, status, false);
            let (min, max) = (sizes.iter().min().unwrap(), sizes.iter().max().unwrap());
            assert!(
                range.contains(min) && range.contains(max),
                "{kind:?} {status:?}: {min} to {max}"
            );
        }
        let (huge, usual): (Vec<usize>, Vec<usize>) = sizes(FileSearch, Completed, true)
            .into_iter()
            .partition(|size| *size > 100_000);
        assert!(usual.iter().all(|size| (2_000..75_000).contains(size)));
        assert!(usual.iter().any(|size| *size < 8_000) && usual.iter().any(|size| *size > 50_000));
        assert!(huge.iter().all(|size| (800_000..880_000).contains(size)));
        assert!(!huge.is_empty() && huge.len() * 20 < usual.len());
    }

    #[test]
    fn a_body_names_its_ids_and_status() {
        for id in of_kind(Kind::CodeInterpreter).take(5) {
            for status in Status::ALL {
                let body: serde_json::Value =
                    serde_json::from_slice(&body(&id, status, false)).unwrap();
                assert_eq!(body["object"], "thread.run.step");
                assert_eq!(body["id"], *id);
                assert_eq!(body["run_id"], "run_0123456789abcdefghijklmn");
                assert_eq!(body["thread_id"], "thread_0123456789abcdefghijklmn");
                assert_eq!(body["status"], status.as_str());
                assert_eq!(body["usage"].is_null(), !status.is_final());
            }
        }
    }

    #[test]
    fn include_adds_the_content_of_a_file_search_and_changes_nothing_else() {
        let search = of_kind(Kind::FileSearch).next().unwrap();
        let message = of_kind(Kind::Message).next().unwrap();
        let content = |include| {
            let body = body(&search, Status::Completed, include);
            String::from_utf8(body.to_vec())
                .unwrap()
                .contains("\"content\"")
        };
        assert!(content(true) && !content(false));
        assert_eq!(
            body(&message, Status::Completed, true),
            body(&message, Status::Completed, false)
        );
    }

    #[test]
    fn the_wire_is_two_space_indented_with_its_own_member_names() {
        let text = String::from_utf8(body("step_abc123", Status::Expired, false).to_vec()).unwrap();
        assert!(
            text.starts_with("{\n  \"id\": \"step_abc123\",\n  \"object\": \"thread.run.step\",")
        );
        assert!(text.contains("\"expires_at\": 1"));
        assert!(!text.contains("expired_at") && !text.contains("metadata"));
    }
}
