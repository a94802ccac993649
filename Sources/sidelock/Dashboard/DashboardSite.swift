import NIOHTTP1
import SidelockClient

/// What the dashboard serves, and to whom: to nobody without the token, and under no other name than the loopback's, so
/// that neither another user of the host nor a page of another site reaches it.
///
/// The page and what it is made of lie below the token in the path; what it asks for lies below `/api`, with the token in
/// a header, which no page of another site can send along.
struct DashboardSite: WebSite {
  /// The header that has the token.
  static let tokenHeader = "X-Sidelock-Token"

  let token: String
  let source: DashboardSource

  /// A part of the page.
  private struct File {
    var type: String
    var bytes: @Sendable () -> [UInt8]
  }

  private static let files: [String: File] = [
    "": File(type: "text/html; charset=utf-8") { PackageResources.dashboard_html },
    "dashboard.css": File(type: "text/css; charset=utf-8") { PackageResources.dashboard_css },
    "dashboard.js": File(type: "text/javascript; charset=utf-8") { PackageResources.dashboard_js },
    "charts.js": File(type: "text/javascript; charset=utf-8") { PackageResources.charts_js },
    "elements.js": File(type: "text/javascript; charset=utf-8") { PackageResources.elements_js },
    "figures.js": File(type: "text/javascript; charset=utf-8") { PackageResources.figures_js },
    "graph.js": File(type: "text/javascript; charset=utf-8") { PackageResources.graph_js },
    "icon.svg": File(type: "image/svg+xml") { PackageResources.icon_svg },
  ]

  /// Nothing from elsewhere, no script or style in the page itself, in no frame, and no text that becomes markup.
  private static let headers = [
    (
      "Content-Security-Policy",
      "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
        + "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    ("Referrer-Policy", "no-referrer"),
    ("X-Frame-Options", "DENY"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
  ]

  func plan(for request: WebRequest) -> WebPlan {
    switch judged(request) {
    case .answer(var answer):
      answer.headers += Self.headers
      // Other users of the host would keep the few connections that there are for long.
      answer.endsConnection = answer.status == 403
      return .answer(answer)
    case .make(let question, let make):
      return .make(question: question) {
        var answer = make()
        answer.headers += Self.headers
        return answer
      }
    }
  }

  private func judged(_ request: WebRequest) -> WebPlan {
    let hosts = request.headers["Host"]
    guard hosts.count == 1, ListenAddress.isLoopback(hostHeader: hosts[0]) else {
      return .answer(
        WebAnswer(status: 403, text: "This is served under the name localhost and loopback addresses alone.\n"))
    }
    let path = request.target.prefix { $0 != "?" }
    if path.hasPrefix("/api/") {
      let tokens = request.headers[Self.tokenHeader]
      guard tokens.count == 1, isToken(tokens[0]) else { return .answer(Self.noToken) }
      return call(String(path.dropFirst(5)), request)
    }
    let parts = path.split(separator: "/", omittingEmptySubsequences: false)
    guard parts.count >= 2, parts[0].isEmpty, isToken(parts[1]) else { return .answer(Self.noToken) }
    guard parts.count == 3, let file = Self.files[String(parts[2])] else { return .answer(Self.nothing) }
    switch request.method {
    case .GET, .HEAD: return .answer(WebAnswer(status: 200, type: file.type, body: file.bytes()))
    case _: return .answer(.only("GET, HEAD"))
    }
  }

  private func call(_ name: String, _ request: WebRequest) -> WebPlan {
    guard let call = DashboardSource.Call(rawValue: name) else { return .answer(Self.nothing) }
    guard request.method == .POST else { return .answer(.only("POST")) }
    guard let params = try? JSONValue(parsing: request.body), params.objectValue != nil else {
      return .answer(WebAnswer(status: 400, text: "The body must be a JSON object.\n"))
    }
    let source = source
    // Whoever looks at the same shares the look; what breaks a lock is asked for once by each.
    let question = call == .break ? nil : "\(name) \(params.serialized)"
    return .make(question: question) { source.answer(to: call, params) }
  }

  private static let noToken = WebAnswer(
    status: 403, text: "The address must have the token that sidelock dashboard has printed.\n")
  private static let nothing = WebAnswer(status: 404, text: "There is nothing here.\n")

  /// Takes as long for any text of the token's length.
  func isToken(_ text: some StringProtocol) -> Bool {
    let (given, wanted) = (Array(text.utf8), Array(token.utf8))
    guard given.count == wanted.count else { return false }
    return zip(given, wanted).reduce(0) { $0 | ($1.0 ^ $1.1) } == 0
  }
}
