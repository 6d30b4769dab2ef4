module kled.io/tests/servers/pause

go 1.26.0
