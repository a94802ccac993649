import SidelockClient

/// What asks a daemon, and waits for the answer.
protocol Asking {
  /// Sends a request, waits for its reply, and gives the result.
  func call(_ method: String, _ params: JSONValue?) throws -> JSONValue
}

extension DaemonConnection: Asking {}

extension Asking {
  /// All that a method tells page by page. `items`: the member that has them; unless told, it is called like the method.
  func pages(of method: String, _ items: String? = nil) throws -> [JSONValue] {
    var found: [JSONValue] = []
    var cursor: JSONValue?
    while true {
      var params = JSONObject()
      if let cursor { params.append("cursor", cursor) }
      let page = try call(method, .object(params))
      found += page[items ?? method]?.arrayValue ?? []
      // A cursor that does not move would ask for the same page for ever.
      guard let next = page["cursor"], !next.isNull, next != cursor else { return found }
      cursor = next
    }
  }

  /// Locks as `list` tells of them, page by page, until there are no more, or `max` of them.
  func locks(prefix: String? = nil, allHosts: Bool, max: Int = .max) throws -> [LockDescription] {
    var query = ListQuery(prefix: prefix, allHosts: allHosts)
    var locks: [LockDescription] = []
    repeat {
      locks += query.received(try call("list", query.params))
    } while query.hasMore && locks.count < max
    return locks
  }
}
