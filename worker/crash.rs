//! Named points at which a test can end the process, as a kill would: debug builds only.
//!
//! `LONGSHORE_CRASH_AT=name` aborts when the point `name` is reached, `name#3` when it is reached for
//! the third time. Release builds contain none of it.

/// Where the process may be made to end.
#[inline]
pub fn point(name: &str) {
    #[cfg(debug_assertions)]
    armed::reach(name);
    #[cfg(not(debug_assertions))]
    let _ = name;
}

#[cfg(debug_assertions)]
mod armed {
    use std::sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    };

    static WANTED: OnceLock<Option<(String, AtomicU32)>> = OnceLock::new();

    pub(super) fn reach(name: &str) {
        let wanted = WANTED.get_or_init(|| {
            let text = std::env::var("LONGSHORE_CRASH_AT").ok()?;
            let (name, count) = text.split_once('#').unwrap_or((&text, "1"));
            Some((name.to_owned(), AtomicU32::new(count.parse().unwrap_or(1))))
        });
        if let Some((wanted, left)) = wanted
            && wanted == name
            && left.fetch_sub(1, Ordering::SeqCst) == 1
        {
            tracing::warn!(point = name, "aborted at a crash point");
            std::process::abort();
        }
    }
}
