import ClientProtocol
import Foundation
import Testing

/// What is wrong with a text as JSON.
func mistake(in text: [UInt8]) -> JSONSyntaxError? {
  text.withUnsafeBytes { JSONText.mistake(in: $0) }
}

func mistake(in text: String) -> JSONSyntaxError? {
  mistake(in: Array(text.utf8))
}

func decode(_ line: String) -> ClientMessage {
  var decoder = RequestDecoder()
  return decoder.decode(Array(line.utf8))
}

/// The request that a method with these params is, sent with id 1.
func request(_ method: String, _ params: String) throws -> ClientRequest {
  let message = decode(#"{"id":1,"method":"\#(method)","params":\#(params)}"#)
  guard case .request(.integer(1), let request) = message else {
    throw UnexpectedMessage(message: message)
  }
  return request
}

/// The refusal of a method with these params, sent with id 1.
func refusal(_ method: String, _ params: String) throws -> RequestRefusal {
  let refusal = try refusal(line: #"{"id":1,"method":"\#(method)","params":\#(params)}"#)
  #expect(refusal.id == .integer(1))
  return refusal
}

func refusal(line: String) throws -> RequestRefusal {
  try refusal(line: Array(line.utf8))
}

func refusal(line: [UInt8]) throws -> RequestRefusal {
  var decoder = RequestDecoder()
  let message = decoder.decode(line)
  guard case .refused(let refusal) = message else { throw UnexpectedMessage(message: message) }
  return refusal
}

struct UnexpectedMessage: Error {
  var message: ClientMessage
}

extension RequestRefusal {
  /// The member of `data` of that name.
  subscript(_ key: String) -> Detail.Value? {
    details.first { $0.key.description == key }?.value
  }
}

/// A line that the writer wrote, read by Foundation.
func object(_ line: [UInt8]) throws -> NSDictionary {
  #expect(line.last == 0x0A)
  #expect(line.dropLast().firstIndex(of: 0x0A) == nil, "one line")
  return try #require(try JSONSerialization.jsonObject(with: Data(line)) as? NSDictionary)
}

/// The message that `body` writes, read by Foundation.
func written(_ body: (inout MessageWriter) -> Void) throws -> NSDictionary {
  var writer = MessageWriter()
  body(&writer)
  #expect(writer.lineCount == writer.count)
  return try object(writer.bytes)
}

/// JSON read by Foundation, to compare with.
func json(_ text: String) throws -> NSDictionary {
  try #require(try JSONSerialization.jsonObject(with: Data(text.utf8)) as? NSDictionary)
}
