import SidelockClient
import Testing

@testable import sidelock

/// What `top` shows and what keys do to that; `test_top.py` has it on a terminal.
struct TopScreenTests {
  private func screen(_ names: String...) throws -> TopScreen {
    var screen = TopScreen(host: "h", showsAllHosts: false, order: .name)
    screen.locks = try names.map { name in
      LockDescription(
        try JSONValue(
          parsing: #"{"name":"\#(name)","mode":"exclusive","holders":[{"host":"h","pid":7,"held_ms":1}],"waiting":0}"#))
    }
    return screen
  }

  private func marked(_ screen: TopScreen, height: Int = 24) -> [String] {
    screen.lines(width: 80, height: height).filter(\.isMarked).map { "\($0.text.prefix { $0 != " " })" }
  }

  @Test func ratesAreOverTheTimeBetweenTwoLooks() throws {
    var screen = try screen()
    screen.saw(TopScreen.Sample(stats: ["grants_total": 10, "requests_total": 100], at: 1000))
    #expect(screen.lines(width: 80, height: 24)[1].text.contains("; - grants/s, - requests/s"))
    screen.saw(TopScreen.Sample(stats: ["grants_total": 15, "requests_total": 101], at: 3000))
    #expect(screen.lines(width: 80, height: 24)[1].text.contains("; 2.5 grants/s, 0.5 requests/s"))
  }

  @Test func whatIsSelectedStaysInSightAndWithinTheList() throws {
    var screen = try screen("a", "b", "c", "d", "e")
    #expect(marked(screen) == ["a"])
    #expect(screen.pressed("k") == .nothing && marked(screen) == ["a"])
    for _ in 0..<9 { _ = screen.pressed("[B") }
    #expect(marked(screen) == ["e"] && marked(screen, height: 7) == ["e"])
    #expect(screen.lines(width: 20, height: 7).allSatisfy { $0.text.count <= 20 })
    for height in 0...4 { #expect(screen.lines(width: 80, height: height).count == height) }
    _ = screen.pressed("[A")
    #expect(marked(screen, height: 7) == ["d"])
    #expect(screen.pressed("\n") == .look && screen.mode == .inspect(name: "d"))
    #expect(screen.pressed("q") == .look && screen.mode == .list)
    #expect(screen.pressed("q") == .quit)
  }

  @Test func aFilterIsTypedTakenAndLeft() throws {
    var screen = try screen("orders", "other", "q")
    for key in ["/", "o", "r", "q", "\u{7F}"] { #expect(screen.pressed(key) == .nothing) }
    #expect(screen.shown.map(\.name) == ["orders"])
    _ = screen.pressed("\n")
    #expect(screen.filter == "or" && screen.mode == .list && screen.shown.count == 1)
    _ = screen.pressed("/")
    _ = screen.pressed("x")
    _ = screen.pressed("\u{1B}")
    #expect(screen.filter == "or")
    _ = screen.pressed("\u{1B}")
    #expect(screen.shown.count == 3)
  }

  @Test func namesCannotSteerTheTerminal() throws {
    let screen = try screen(#"a\u001b[2J"#)
    #expect(screen.lines(width: 80, height: 24).allSatisfy { !$0.text.contains("\u{1B}") })
  }

  @Test func arrowsAreOneKey() {
    #expect(FullScreen.keys(Array("a\u{1B}[Bé\u{1B}".utf8)) == ["a", "[B", "é", "\u{1B}"])
  }
}
