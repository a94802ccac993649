import SidelockClient
import Testing

@testable import sidelock

/// `stats --openmetrics`; `test_openmetrics.py` has the parser of others read what a daemon tells.
struct OpenMetricsTests {
  @Test func whatHasToBeEscapedIsSoInsideOfCharacters() {
    let server: JSONValue = ["host": "a\"\u{301}\\\u{301}b\r\nc"]
    let text = OpenMetrics(stats: .object(JSONObject()), document: .null, server: server).text
    let sample = "sidelock_build_info{version=\"\",host=\"a\\\"\u{301}\\\\\u{301}b\r\\nc\",backend=\"\"} 1\n# EOF"
    #expect(text.utf8.suffix(sample.utf8.count).elementsEqual(sample.utf8))
  }

  @Test func unitsAreBaseUnitsAndTextsAreEscaped() throws {
    let stats = try JSONValue(
      parsing:
        #"{"a_ms":1050,"b_us_total":7,"c_bytes":3,"d":{"e":"x\"\\\n"},"by_microseconds":{"more":2,"1000000":1},"new":5,"#
        + #""h":{"by_microseconds":{"100":2,"more":1,"sum":1000123}},"lost_total":{"a":1,"b":2}}"#
    )
    let document = try JSONValue(
      parsing: """
        {"components":{"schemas":{"Statistics":{"properties":{"a_ms":{"description":"gauge, ms: how long"},
        "b_us_total":{"description":"counter, µs: how much: all"},"c_bytes":{"description":"gauge, bytes: room"},
        "d":{"type":"object","properties":{"e":{"description":"text: a word"}}},
        "by_microseconds":{"description":"histogram, µs: turns"},
        "h":{"properties":{"by_microseconds":{"description":"histogram, µs: holds"}}},
        "lost_total":{"description":"counter: losses","x-label":"reason"}}}}}}
        """)
    let server = try JSONValue(parsing: #"{"server":{"version":"1"},"host":"h","backend":"local"}"#)
    #expect(
      OpenMetrics(stats: stats, document: document, server: server).text == #"""
        # TYPE sidelock_build info
        # HELP sidelock_build what runs there
        sidelock_build_info{version="1",host="h",backend="local"} 1
        # TYPE sidelock_a_seconds gauge
        # UNIT sidelock_a_seconds seconds
        # HELP sidelock_a_seconds how long
        sidelock_a_seconds 1.05
        # TYPE sidelock_b_seconds counter
        # UNIT sidelock_b_seconds seconds
        # HELP sidelock_b_seconds how much: all
        sidelock_b_seconds_total 0.000007
        # TYPE sidelock_c_bytes gauge
        # UNIT sidelock_c_bytes bytes
        # HELP sidelock_c_bytes room
        sidelock_c_bytes 3
        # TYPE sidelock_d_e info
        # HELP sidelock_d_e a word
        sidelock_d_e_info{e="x\"\\\n"} 1
        # TYPE sidelock_seconds histogram
        # UNIT sidelock_seconds seconds
        # HELP sidelock_seconds turns
        sidelock_seconds_bucket{le="1.0"} 1
        sidelock_seconds_bucket{le="+Inf"} 3
        # TYPE sidelock_new unknown
        sidelock_new 5
        # TYPE sidelock_h_seconds histogram
        # UNIT sidelock_h_seconds seconds
        # HELP sidelock_h_seconds holds
        sidelock_h_seconds_bucket{le="0.0001"} 2
        sidelock_h_seconds_bucket{le="+Inf"} 3
        sidelock_h_seconds_count 3
        sidelock_h_seconds_sum 1.000123
        # TYPE sidelock_lost counter
        # HELP sidelock_lost losses
        sidelock_lost_total{reason="a"} 1
        sidelock_lost_total{reason="b"} 2
        # EOF
        """#)
  }
}
