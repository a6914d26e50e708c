//! Builds bodies as the upstream writes them, from the ids, the status and `include[]` alone.
//!
//! Bodies are indented by two spaces and as large as bodies recorded from real traffic. They depend on
//! no clock, so a test can compute each of them.

use bytes::Bytes;
use serde::Serialize;

use super::step_spec::{Kind, Status, StepSpec};
use crate::demo::seeded_rng::SeededRng;

/// The ids of a step's path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ids<'a> {
    pub(super) thread: &'a str,
    pub(super) run: &'a str,
    pub(super) step: &'a str,
}

/// A step on the wire: the members in the wire's order, and as they are on the wire where the vendor's
/// documentation differs (`expires_at`, no `metadata`, details inside `usage`).
#[derive(Serialize)]
pub(super) struct Step<'a> {
    id: &'a str,
    object: &'static str,
    created_at: u64,
    run_id: &'a str,
    assistant_id: String,
    thread_id: &'a str,
    r#type: &'static str,
    status: &'static str,
    cancelled_at: Option<u64>,
    completed_at: Option<u64>,
    expires_at: Option<u64>,
    failed_at: Option<u64>,
    last_error: Option<LastError>,
    step_details: Details,
    usage: Option<Usage>,
}

#[derive(Serialize)]
struct LastError {
    code: &'static str,
    message: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Details {
    MessageCreation { message_creation: Message },
    ToolCalls { tool_calls: Vec<ToolCall> },
}

#[derive(Serialize)]
struct Message {
    message_id: String,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    #[serde(flatten)]
    call: Call,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Call {
    CodeInterpreter { code_interpreter: Code },
    FileSearch { file_search: Search },
}

#[derive(Serialize)]
struct Code {
    input: String,
    outputs: Vec<Logs>,
}

#[derive(Serialize)]
struct Logs {
    r#type: &'static str,
    logs: String,
}

#[derive(Serialize)]
struct Search {
    ranking_options: Ranking,
    results: Vec<SearchResult>,
}

#[derive(Serialize)]
struct Ranking {
    ranker: &'static str,
    score_threshold: f64,
}

#[derive(Serialize)]
struct SearchResult {
    file_id: String,
    file_name: String,
    score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<[Text; 1]>,
}

#[derive(Serialize)]
struct Text {
    r#type: &'static str,
    text: String,
}

#[derive(Serialize)]
struct Usage {
    prompt_tokens: u32,
    completion_tokens: u32,
    total_tokens: u32,
    prompt_token_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
struct PromptDetails {
    cached_tokens: u32,
}

#[derive(Serialize)]
struct CompletionDetails {
    reasoning_tokens: u32,
}

/// A list of a run's steps, with the members in the wire's order.
#[derive(Serialize)]
pub(super) struct List<'a> {
    pub(super) object: &'static str,
    pub(super) data: Vec<Step<'a>>,
    pub(super) first_id: Option<&'a str>,
    pub(super) last_id: Option<&'a str>,
    pub(super) has_more: bool,
}

/// The seconds after which a run expires: ten minutes, as on the real service.
const EXPIRY: u64 = 600;

/// Returns the step with this `status`.
pub(super) fn step<'a>(ids: Ids<'a>, status: Status, include: bool) -> Step<'a> {
    let spec = StepSpec::of(ids.step);
    let mut rng = SeededRng::of(&["body", ids.thread, ids.run, ids.step]);
    let created = spec.created_at;
    let ended = created + 2 + u64::from(rng.below(7));
    let at = |when: Status| (status == when).then_some(ended);
    let usage = status.is_final().then(|| usage(&mut rng));
    Step {
        id: ids.step,
        object: "thread.run.step",
        created_at: created,
        run_id: ids.run,
        assistant_id: SeededRng::of(&["assistant", ids.thread]).id("asst_"),
        thread_id: ids.thread,
        r#type: match spec.kind {
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
        last_error: (status == Status::Failed).then(|| error(&mut rng)),
        step_details: details(spec.kind, status, include, &mut rng),
        usage,
    }
}

/// Returns `value` as the upstream writes it.
pub(super) fn to_json(value: &impl Serialize) -> Bytes {
    serde_json::to_vec_pretty(value)
        .expect("strings, numbers and lists always serialize")
        .into()
}

fn usage(rng: &mut SeededRng) -> Usage {
    let (prompt, completion) = (100 + rng.below(900), 20 + rng.below(400));
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

fn error(rng: &mut SeededRng) -> LastError {
    match rng.below(2) {
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

/// Returns the details. A live tool step has no calls yet, so its body is small.
fn details(kind: Kind, status: Status, include: bool, rng: &mut SeededRng) -> Details {
    match kind {
        Kind::Message => Details::MessageCreation {
            message_creation: Message {
                message_id: rng.id("msg_"),
            },
        },
        Kind::CodeInterpreter | Kind::FileSearch if !status.is_final() => Details::ToolCalls {
            tool_calls: Vec::new(),
        },
        Kind::CodeInterpreter => Details::ToolCalls {
            tool_calls: vec![ToolCall {
                id: rng.id("call_"),
                call: Call::CodeInterpreter {
                    code_interpreter: code(rng),
                },
            }],
        },
        Kind::FileSearch => Details::ToolCalls {
            tool_calls: vec![ToolCall {
                id: rng.id("call_"),
                call: Call::FileSearch {
                    file_search: search(include, rng),
                },
            }],
        },
    }
}

fn code(rng: &mut SeededRng) -> Code {
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
    let lines = 2 + rng.below(12);
    let input = (0..lines).map(|_| rng.pick(&LINES)).collect();
    let logs = format!("{} overdue — {}.00 €\n", rng.below(90), rng.below(90_000));
    Code {
        input,
        outputs: vec![Logs {
            r#type: "logs",
            logs,
        }],
    }
}

/// Returns a search. One in 64 has very large results, because the largest recorded bodies had 840 KB.
fn search(include: bool, rng: &mut SeededRng) -> Search {
    let (count, length) = match rng.below(64) {
        0 => (48, 17_000),
        1.. => (1 + rng.below(20), 1_200 + rng.below(2_000)),
    };
    let results = (0..count).map(|rank| SearchResult {
        file_id: rng.id("file-"),
        file_name: format!("handbook-{}.md", rng.below(1000)),
        score: 0.95 - 0.018 * f64::from(rank),
        content: include.then(|| {
            [Text {
                r#type: "text",
                text: prose(length as usize, rng),
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

fn prose(length: usize, rng: &mut SeededRng) -> String {
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
        text.push_str(rng.pick(&WORDS));
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
        to_json(&super::step(ids, status, include))
    }

    fn sizes(kind: Kind, status: Status, include: bool) -> Vec<usize> {
        of_kind(kind)
            .map(|id| body(&id, status, include).len())
            .collect()
    }

    #[test]
    fn bodies_are_as_large_as_in_real_traffic() {
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
    fn a_body_has_its_ids_and_status() {
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
    fn the_body_is_indented_and_has_the_wires_member_names() {
        let text = String::from_utf8(body("step_abc123", Status::Expired, false).to_vec()).unwrap();
        assert!(
            text.starts_with("{\n  \"id\": \"step_abc123\",\n  \"object\": \"thread.run.step\",")
        );
        assert!(text.contains("\"expires_at\": 1"));
        assert!(!text.contains("expired_at") && !text.contains("metadata"));
    }
}
