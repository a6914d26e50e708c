//! The catalogue of hazards: a test `c12_…` covers its item 12, and bears the standard name of the
//! attack or fault. `architecture.rs` fails if an item has no test. A test without a number stands
//! beside the items whose fixtures it shares.

mod credentials;
mod lifecycle;
mod requests;
mod sharing;
mod upstream;

use tokio::sync::{Mutex, MutexGuard};

/// Returns a guard that one test at a time holds: those that load the machine and measure what that
/// costs would measure each other.
async fn load_test() -> MutexGuard<'static, ()> {
    static LOAD_TEST: Mutex<()> = Mutex::const_new(());
    LOAD_TEST.lock().await
}
