//! The real program in a pod.
