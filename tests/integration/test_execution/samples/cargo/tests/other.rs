#[test]
fn other() {
    assert_eq!(sample::add(0, 0), 0);
}

#[test]
fn takes_its_time() {
    std::thread::sleep(std::time::Duration::from_millis(120));
}
