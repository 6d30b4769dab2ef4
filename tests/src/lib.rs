//! The test harness of Kled.
