import NIOCore
import NIOPosix

/// A connection of a server, as far as room for others is made.
protocol WebConnection: AnyObject {
  /// Nothing has come of it at all.
  var isSilent: Bool { get }
  /// No request of it has come in full that is not answered.
  var isAskingNothing: Bool { get }
  /// Closes it.
  func shed()
}

/// Makes answers beside the loop, on which it lives itself. Those who ask for the same while it is being made share an
/// answer that is begun after they asked: however many ask, and go again, there is little to do, and nobody waits for
/// more than one that was begun before.
final class AnswerDesk {
  /// Answers to one question that are made at a time.
  static let answersMax = 2
  /// Answers that are made at a time.
  static let threads = 6

  /// Connections that are open, the eldest first.
  var connections: [any WebConnection] = []

  /// Makes room for one more connection where there are `max`: whoever has said nothing yet is closed for it, the eldest
  /// first, and then whoever has asked for nothing. False when all are being answered.
  func makeRoom(max: Int) -> Bool {
    guard connections.count >= max else { return true }
    guard let index = connections.firstIndex(where: \.isSilent) ?? connections.firstIndex(where: \.isAskingNothing)
    else { return false }
    connections.remove(at: index).shed()
    return true
  }

  private struct Ask {
    var channel: any Channel
    var make: @Sendable () -> WebAnswer
    /// Called with nil when there is none to be had.
    var take: (WebAnswer?) -> Void
  }

  private let loop: any EventLoop
  private let pool = NIOThreadPool(numberOfThreads: threads)
  private var made: [String: Int] = [:]
  private var asked: [String: [Ask]] = [:]

  init(_ loop: any EventLoop) {
    self.loop = loop
    pool.start()
  }

  /// Has `take` called on the loop with an answer that was begun after this, unless the channel is closed by then.
  ///
  /// - Parameter question: what is asked; those who ask the same share an answer. nil: nobody else has this one.
  func ask(
    _ question: String?, _ channel: any Channel, make: @escaping @Sendable () -> WebAnswer,
    take: @escaping (WebAnswer?) -> Void
  ) {
    let ask = Ask(channel: channel, make: make, take: take)
    guard let question else {
      return answer([ask]) {}
    }
    // One connection asks for one thing at a time, so that as many are left as there are connections.
    asked[question, default: []].removeAll { !$0.channel.isActive }
    asked[question, default: []].append(ask)
    makeNext(question)
  }

  private func makeNext(_ question: String) {
    guard made[question, default: 0] < Self.answersMax else { return }
    let asks = asked.removeValue(forKey: question)?.filter(\.channel.isActive) ?? []
    guard !asks.isEmpty else { return }
    made[question, default: 0] += 1
    answer(asks) {
      let left = self.made[question, default: 1] - 1
      self.made[question] = left > 0 ? left : nil
      self.makeNext(question)
    }
  }

  /// Makes one answer for all of them; `then` is called when it is made.
  private func answer(_ asks: [Ask], then: @escaping () -> Void) {
    guard let make = asks.last?.make else { return }
    pool.runIfActive(eventLoop: loop) { make() }.assumeIsolated().whenComplete { result in
      then()
      for ask in asks where ask.channel.isActive { ask.take(try? result.get()) }
    }
  }
}
