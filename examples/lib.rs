//! Runnable examples of embedding Kled.
