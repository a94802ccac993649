import NIOHTTP1

/// What a server serves.
protocol WebSite: Sendable {
  /// What is to be done about a request that has come in full. Called on the server's loop: it must not wait.
  func plan(for request: WebRequest) -> WebPlan
}

/// A request with all that came of it.
struct WebRequest: Sendable {
  var method: HTTPMethod
  /// The path with its query, or a whole URL, as it is sent to a proxy.
  var target: String
  var headers: HTTPHeaders
  /// Up to ``WebServer/bodyBytesMax`` bytes.
  var body: [UInt8] = []
}

/// How a request is answered.
enum WebPlan: Sendable {
  /// At once.
  case answer(WebAnswer)
  /// Beside the loop, where it may take a while. Who asks the same `question` meanwhile shares an answer; nil: nobody does.
  case make(question: String?, @Sendable () -> WebAnswer)
}

/// An answer to one request.
struct WebAnswer: Sendable {
  var status: Int
  var type = "text/plain; charset=utf-8"
  var body: [UInt8]
  /// Whether the connection ends with it: few are open at a time, and this one is for nobody who may be here.
  var endsConnection = false
  /// More headers than every answer has.
  var headers: [(name: String, value: String)] = []

  init(status: Int, type: String, body: [UInt8]) {
    (self.status, self.type, self.body) = (status, type, body)
  }

  init(status: Int, type: String = "text/plain; charset=utf-8", text: String) {
    self.init(status: status, type: type, body: Array(text.utf8))
  }

  /// What is said to another method than these.
  static func only(_ methods: String) -> WebAnswer {
    var answer = WebAnswer(status: 405, text: "Only \(methods.replacing(", ", with: " and ")) are served.\n")
    answer.headers.append(("Allow", methods))
    return answer
  }
}
