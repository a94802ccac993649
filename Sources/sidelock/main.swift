print("sidelock")
