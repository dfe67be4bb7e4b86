//! Longshore: a Kubernetes-aware task-queue worker that keeps every result whole however a pod dies.
//!
//! A user of the library writes handlers ([`handler`]) and runs them in a worker ([`pool`]). The store
//! ([`store`]) is the truth, the broker ([`broker`]) a doorbell. Test jobs ([`testjob`]) are handlers like
//! any user's. ARCHITECTURE.md says how the parts fit.
#![warn(missing_docs)]
pub mod api;
pub mod apt;
pub mod broker;
pub mod bucket;
pub mod bundle;
pub mod celery;
pub mod cli;
pub mod clock;
pub mod codec;
pub mod config;
pub mod crash;
pub mod exec;
pub mod follow;
pub mod gate;
pub mod graph;
pub mod handler;
pub mod http;
pub mod id;
pub mod kube;
pub mod lab;
pub mod lane;
pub mod lifecycle;
pub mod maintenance;
pub mod outbox;
pub mod plugin_host;
pub mod pool;
pub mod squad;
pub mod storage;
pub mod store;
pub mod task;
pub mod testjob;
