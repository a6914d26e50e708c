//! A step as it is on the wire: its members, in the wire's order and with the wire's quirks.
//!
//! `expires_at` where the description says `expired_at`, no `metadata`, details inside `usage`.

use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Step<'a> {
    pub(super) id: &'a str,
    pub(super) object: &'static str,
    pub(super) created_at: u64,
    pub(super) run_id: &'a str,
    pub(super) assistant_id: String,
    pub(super) thread_id: &'a str,
    pub(super) r#type: &'static str,
    pub(super) status: &'static str,
    pub(super) cancelled_at: Option<u64>,
    pub(super) completed_at: Option<u64>,
    pub(super) expires_at: Option<u64>,
    pub(super) failed_at: Option<u64>,
    pub(super) last_error: Option<LastError>,
    pub(super) step_details: Details,
    pub(super) usage: Option<Usage>,
}

#[derive(Serialize)]
pub(super) struct LastError {
    pub(super) code: &'static str,
    pub(super) message: &'static str,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Details {
    MessageCreation { message_creation: Message },
    ToolCalls { tool_calls: Vec<ToolCall> },
}

#[derive(Serialize)]
pub(super) struct Message {
    pub(super) message_id: String,
}

#[derive(Serialize)]
pub(super) struct ToolCall {
    pub(super) id: String,
    #[serde(flatten)]
    pub(super) call: Call,
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(super) enum Call {
    CodeInterpreter { code_interpreter: Code },
    FileSearch { file_search: Search },
}

#[derive(Serialize)]
pub(super) struct Code {
    pub(super) input: String,
    pub(super) outputs: Vec<Logs>,
}

#[derive(Serialize)]
pub(super) struct Logs {
    pub(super) r#type: &'static str,
    pub(super) logs: String,
}

#[derive(Serialize)]
pub(super) struct Search {
    pub(super) ranking_options: Ranking,
    pub(super) results: Vec<Found>,
}

#[derive(Serialize)]
pub(super) struct Ranking {
    pub(super) ranker: &'static str,
    pub(super) score_threshold: f64,
}

#[derive(Serialize)]
pub(super) struct Found {
    pub(super) file_id: String,
    pub(super) file_name: String,
    pub(super) score: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) content: Option<[Text; 1]>,
}

#[derive(Serialize)]
pub(super) struct Text {
    pub(super) r#type: &'static str,
    pub(super) text: String,
}

#[derive(Serialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: u32,
    pub(super) completion_tokens: u32,
    pub(super) total_tokens: u32,
    pub(super) prompt_token_details: PromptDetails,
    pub(super) completion_tokens_details: CompletionDetails,
}

#[derive(Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: u32,
}

#[derive(Serialize)]
pub(super) struct CompletionDetails {
    pub(super) reasoning_tokens: u32,
}
