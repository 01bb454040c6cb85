//! Logging to stderr; stdout is for results. Owns the format: coloured lines on
//! a terminal, plain ones elsewhere, one JSON object a line on request.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// Starts logging for the process `name` (`quarry-coordinator`, …). `RUST_LOG`
/// sets what is logged, by default everything from `info` up and the transport
/// and store clients from `warn`. Calling it again does nothing.
pub fn init(name: &str, json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| {
        EnvFilter::new("info,h2=warn,hyper=warn,tonic=warn,object_store=warn,tantivy=warn")
    });
    let lines = fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(json);
    let registry = tracing_subscriber::registry().with(filter);
    let started = if json {
        registry.with(lines.json().flatten_event(true)).try_init()
    } else {
        registry.with(lines).try_init()
    };
    if started.is_ok() {
        tracing::debug!(name, version = env!("CARGO_PKG_VERSION"), "logging started");
    }
}
