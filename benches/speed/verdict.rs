//! The verdict on a final body, and nothing else, so often.

use std::hint::black_box;
use std::process::ExitCode;

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use stepgate::policy::{Rule, check};

use crate::origin::step;

#[derive(clap::Args)]
pub(crate) struct Verdict {
    #[arg(long)]
    times: u64,
    /// Bytes of the body.
    #[arg(long, default_value_t = 790)]
    size: usize,
}

impl Verdict {
    pub(crate) fn run(self) -> ExitCode {
        let rule = Rule::run_step();
        let ids = ["thread_1", "run_1", "step_1"];
        let body = step(ids, "completed", self.size);
        let json = HeaderValue::from_static("application/json");
        let headers = HeaderMap::from_iter([(CONTENT_TYPE, json)]);
        for _ in 0..self.times {
            let body = black_box(body.as_bytes());
            let verdict = check(&rule, &ids, StatusCode::OK, &headers, body, true);
            assert_eq!(verdict, Ok(()));
        }
        ExitCode::SUCCESS
    }
}
