//! Integration tests: the real binary, real signals.

mod demo;
