//! What must not compile: a transaction held across an await, a write through a reader, a statement of one's own.

#[test]
fn neither_handlers_nor_readers_can_hold_a_transaction_or_write_beside_the_commands() {
    trybuild::TestCases::new().compile_fail("tests/compile_fail/*.rs");
}
