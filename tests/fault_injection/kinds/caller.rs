//! On the caller's side.

use crate::kind::{Harm, Kind, Prank, RIGHT};

const fn prank(word: &'static str, prank: Prank) -> Kind {
    Kind::plain(word, Harm::Caller(prank), RIGHT)
}

pub(crate) const KINDS: &[Kind] = &[
    prank("caller_leaves_unanswered", Prank::LeavesUnanswered),
    prank("caller_resets_unanswered", Prank::ResetsUnanswered),
    prank("caller_leaves_half_answered", Prank::LeavesHalfAnswered),
    prank("caller_half_a_head", Prank::HalfAHead),
    prank("caller_drips_a_head", Prank::DripsAHead),
    prank("caller_silent", Prank::Silence),
    prank("caller_half_a_preface", Prank::HalfAPreface),
    prank("caller_reads_slowly", Prank::ReadsSlowly),
    prank("caller_pipelines", Prank::Pipelines),
    prank("caller_junk", Prank::Junk),
    prank("caller_tls_hello", Prank::TlsHello),
    prank("caller_two_lengths", Prank::TwoLengths),
    prank("caller_hides_a_request", Prank::HidesARequest),
    prank("caller_large_head", Prank::LargeHead),
    prank("caller_long_target", Prank::LongTarget),
    prank("caller_bad_id", Prank::BadId),
    prank("caller_foreign_host", Prank::ForeignHost),
    prank("caller_web_page", Prank::WebPage),
    prank("caller_wrong_method", Prank::WrongMethod),
    prank("caller_resets_streams", Prank::ResetsStreams),
    prank("crowd", Prank::Crowd),
    prank("crowd_meets_failure", Prank::CrowdMeetsFailure),
    prank("crowd_loses_its_first", Prank::CrowdLosesItsFirst),
];
