import LockTypes
import NIOCore
import RESP
import RedisLeases

/// Asks nodes of a Redis Cluster how things are, each over a connection that is made for the question. Nodes to which there is
/// a link are asked over that.
final class ClusterWatch: RedisChannelOwner {
  private struct Question {
    let dialer: RedisDialer
    let address: RedisAddress
    var connection: RedisConnection
    var channel: (any Channel)?
    var dialed = ""
    let completion: (Result<ClusterTopology, Failure>) -> Void
    var timeout: Scheduled<Void>?
  }

  /// Why there is no answer.
  struct Failure: Error {
    var words: String
    var isLoginRefused = false
  }

  /// The question to a node.
  static let question = ["CLUSTER", "NODES"].map { Array($0.utf8) }

  private let loop: any EventLoop
  private let clientName: String
  private let makeDialer: (RedisAddress) -> RedisDialer
  private var dialers: [RedisAddress: RedisDialer] = [:]
  private var questions: [UInt64: Question] = [:]
  private var lastNumber: UInt64 = 0
  /// How long a node may take to connect, and then to answer, in milliseconds.
  var timeoutMilliseconds: Int64

  init(
    loop: any EventLoop, clientName: String, timeoutMilliseconds: Int64,
    makeDialer: @escaping (RedisAddress) -> RedisDialer
  ) {
    self.loop = loop
    self.clientName = clientName
    self.timeoutMilliseconds = timeoutMilliseconds
    self.makeDialer = makeDialer
  }

  /// Asks the node at `address`. The completion is called once, unless this is stopped before.
  func ask(
    _ address: RedisAddress, login: RedisLogin,
    _ completion: @escaping (Result<ClusterTopology, Failure>) -> Void
  ) {
    lastNumber += 1
    let number = lastNumber
    if dialers.count > 2 * RedisClusterSeeds.addressesMax { dialers = [:] }
    let dialer = dialers[address] ?? makeDialer(address)
    dialers[address] = dialer
    let connection = RedisConnection(
      configuration: RedisConnectionConfiguration(
        username: login.username, password: login.password, clientName: clientName, inbox: [], scripts: [],
        clusterRole: .any))
    questions[number] = Question(dialer: dialer, address: address, connection: connection, completion: completion)
    dialer.dial(
      timeoutMilliseconds: timeoutMilliseconds, makeHandler: { RedisChannelHandler(owner: self) },
      completion: { dialed in
        guard self.questions[number] != nil else {
          dialed?.channel.close(promise: nil)
          return
        }
        guard let dialed else { return self.ended(number, .failure(Failure(words: dialer.reason))) }
        dialed.handler.number = number
        self.questions[number]?.channel = dialed.channel
        self.questions[number]?.dialed = dialed.address
        self.questions[number]?.connection.connected()
        self.armTimeout(number)
        self.send(number)
        // It may have ended before its handler had a number.
        if !dialed.channel.isActive { self.closed(number, dialed.handler) }
      })
  }

  /// The dialer has a limit of its own, and better words for what is wrong.
  private func armTimeout(_ number: UInt64) {
    let milliseconds = timeoutMilliseconds
    questions[number]?.timeout = loop.assumeIsolated().scheduleTask(in: .milliseconds(milliseconds)) {
      self.failed(number, "no answer within \(milliseconds) ms")
    }
  }

  /// Closes all connections; nothing is answered any more.
  func stop() {
    for question in questions.values {
      question.timeout?.cancel()
      question.channel?.close(promise: nil)
    }
    questions = [:]
  }

  private func send(_ number: UInt64) {
    guard let channel = questions[number]?.channel, questions[number]?.connection.hasOutput == true,
      let output = questions[number]?.connection.takeOutput()
    else { return }
    channel.writeAndFlush(ByteBuffer(bytes: output), promise: nil)
  }

  func received(_ buffer: ByteBuffer, _ number: UInt64) {
    guard questions[number] != nil else { return }
    let actions = buffer.withUnsafeReadableBytes { questions[number]?.connection.received($0) } ?? []
    for action in actions {
      switch action {
      case .ready: _ = questions[number]?.connection.submit(.plain(Self.question), id: 1)
      case .reply(_, let value): answered(number, value)
      case .failed(let failure):
        dialFailed(number, failure.message)
        ended(
          number,
          .failure(Failure(words: failure.message, isLoginRefused: failure.reason == .authenticationFailed)))
      case .fault(let fault): failed(number, fault.description)
      case .message: break
      }
    }
    send(number)
  }

  private func answered(_ number: UInt64, _ value: RESPValue) {
    guard let question = questions[number] else { return }
    switch Self.topology(value, asked: question.address) {
    case .success(let view):
      question.dialer.succeeded(question.dialed)
      ended(number, .success(view))
    case .failure(let failure): failed(number, failure.words)
    }
  }

  /// What the answer to ``question`` says.
  static func topology(_ value: RESPValue, asked: RedisAddress) -> Result<ClusterTopology, Failure> {
    if let error = value.error {
      let words = RedisErrorReply.words(of: error)
      return .failure(
        Failure(
          words: RedisErrorReply.isAboutRights(error)
            ? "the user of Redis may not use CLUSTER NODES: allow it with +cluster|nodes (\(words))" : words))
    }
    guard let text = value.bytes, let view = ClusterTopology(nodes: text, asked: asked) else {
      return .failure(Failure(words: "the reply to CLUSTER NODES is not understood"))
    }
    return .success(view)
  }

  private func dialFailed(_ number: UInt64, _ words: String) {
    guard let question = questions[number], question.channel != nil else { return }
    question.dialer.failed(question.dialed, words)
  }

  private func failed(_ number: UInt64, _ words: String) {
    dialFailed(number, words)
    ended(number, .failure(Failure(words: words)))
  }

  private func ended(_ number: UInt64, _ result: Result<ClusterTopology, Failure>) {
    guard let question = questions.removeValue(forKey: number) else { return }
    question.timeout?.cancel()
    question.channel?.close(promise: nil)
    question.completion(result)
  }

  func closed(_ number: UInt64, _ handler: RedisChannelHandler) {
    guard let question = questions[number], let channel = question.channel, !channel.isActive else { return }
    let guess = handler.hasRead ? nil : question.dialer.guess(scheme: "rediss-cluster")
    failed(number, handler.failure ?? guess ?? "the connection was closed")
  }
}
