// A client of the service as a Go team writes one: generated stubs, grpc-go, and no code of this project.
//
// Usage: foreign CASE ADDRESS [ARGUMENTS]. Each case prints one JSON object, which the Python test judges.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
)

var cases = map[string]func(address string, arguments []string) (any, error){
	"calls":       calls,
	"headers":     headers,
	"idle":        idle,
	"slow-stream": slowStream,
	"steady":      steady,
}

func main() {
	if len(os.Args) < 3 || cases[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: foreign CASE ADDRESS [ARGUMENTS]")
		os.Exit(2)
	}
	result, err := cases[os.Args[1]](os.Args[2], os.Args[3:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(result); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func number(text string) int {
	value, err := strconv.Atoi(text)
	if err != nil {
		panic(err)
	}
	return value
}
