//! When a fetch departs, who may ride along, and how long others wait. Knows no HTTP.
//!
//! Think of shuttles: nobody boards one that has left. A question is answered only by a fetch that
//! departed after it was asked, unless what a fetch brought is final, and so true for everybody.
//!
//! - [`berths`]: at most so many fetches at once.
//! - [`departures`]: one fetch for all who ask for a step at about the same time; [`book`] keeps
//!   them, a shuttle is one of them.
//! - [`patrol`]: one poll loop for all who wait for a step to end.
//! - [`hold`]: after "too many requests", one silence for all.

pub mod berths;
pub mod book;
pub mod departures;
pub mod hold;
mod past;
pub mod patrol;
mod shuttle;

pub use berths::{Berth, Berths, Overloaded};
pub use book::Book;
pub use departures::{Fetch, Flown, Landed, Manifest, Ride, Seat};
pub use hold::{Clearance, Holds, Probe};
pub use patrol::{Heard, Patrols, Report, Terms};
