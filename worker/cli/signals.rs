//! Signals become requests. They only set flags: nothing that runs is interrupted.
//!
//! SIGTERM and SIGINT drain, a second one hands off at once; SIGQUIT ends now; SIGHUP is ignored and
//! said so; SIGUSR1 says what runs.

use futures::StreamExt as _;
use signal_hook::consts::signal::{SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGUSR1};
use signal_hook_tokio::Signals;
use tokio::sync::mpsc;

use crate::pool::Request;

/// Requests from signals, from now on.
///
/// # Errors
///
/// If the system refuses the handlers.
pub(super) fn requests() -> std::io::Result<mpsc::Receiver<Request>> {
    let mut signals = Signals::new([SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1])?;
    let (sender, requests) = mpsc::channel(8);
    // Lives as long as the process: there is nothing to wait for at a drain.
    #[expect(clippy::disallowed_methods, reason = "ends with the process")]
    tokio::spawn(async move {
        while let Some(signal) = signals.next().await {
            let request = match signal {
                SIGTERM | SIGINT => Request::Stop,
                SIGQUIT => Request::Abandon,
                SIGUSR1 => Request::Print,
                _ => {
                    tracing::info!("SIGHUP was ignored: configuration is read at start");
                    continue;
                }
            };
            if sender.send(request).await.is_err() {
                return;
            }
        }
    });
    Ok(requests)
}
