import NIOCore
import NIOPosix

/// Makes answers beside the loop, on which it lives itself. Those who ask for a page while it is being made share one
/// that is begun after they asked: however many ask, and go again, there is little to do, and nobody waits for more than
/// one that was begun before.
final class AnswerDesk {
  /// Answers to one page that are made at a time.
  static let answersMax = 2

  /// Connections that are open.
  var connections = 0

  private struct Ask {
    var channel: any Channel
    /// Called with nil when there is none to be had.
    var take: (Scraper.Answer?) -> Void
  }

  private let scraper: Scraper
  private let loop: any EventLoop
  private let pool = NIOThreadPool(numberOfThreads: answersMax * Scraper.Page.allCases.count)
  private var made: [Scraper.Page: Int] = [:]
  private var asked: [Scraper.Page: [Ask]] = [:]

  init(_ scraper: Scraper, _ loop: any EventLoop) {
    self.scraper = scraper
    self.loop = loop
    pool.start()
  }

  /// Has `take` called on the loop with an answer that was begun after this, unless the channel is closed by then.
  func ask(for page: Scraper.Page, _ channel: any Channel, take: @escaping (Scraper.Answer?) -> Void) {
    // One connection asks for one thing at a time, so that as many are left as there are connections.
    asked[page, default: []].removeAll { !$0.channel.isActive }
    asked[page, default: []].append(Ask(channel: channel, take: take))
    makeNext(page)
  }

  private func makeNext(_ page: Scraper.Page) {
    guard made[page, default: 0] < Self.answersMax else { return }
    let asks = asked.removeValue(forKey: page)?.filter(\.channel.isActive) ?? []
    guard !asks.isEmpty else { return }
    made[page, default: 0] += 1
    let scraper = scraper
    pool.runIfActive(eventLoop: loop) { scraper.answer(to: page) }.assumeIsolated().whenComplete { result in
      self.made[page, default: 0] -= 1
      self.makeNext(page)
      for ask in asks where ask.channel.isActive { ask.take(try? result.get()) }
    }
  }
}
