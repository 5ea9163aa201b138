package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	userservicev1 "userservice.test/foreign/gen/userservice/v1"
)

// outcome is how a call ended: the code, and what the details of an error say.
type outcome struct {
	Code    string `json:"code"`
	Reason  string `json:"reason,omitempty"`
	Field   string `json:"field,omitempty"`
	CallID  string `json:"call_id,omitempty"`
	Message string `json:"message,omitempty"`
}

func outcomeOf(err error) outcome {
	found := status.Convert(err)
	made := outcome{Code: code.Code(found.Code()).String(), Message: found.Message()}
	for _, detail := range found.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			made.Reason = detail.Reason
		case *errdetails.BadRequest:
			made.Field = detail.FieldViolations[0].Field
		case *errdetails.RequestInfo:
			made.CallID = detail.RequestId
		}
	}
	return made
}

// calls adds a user, reads it, and makes two calls that fail.
func calls(address string, _ []string) (any, error) {
	users, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer users.channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	if _, err := users.AddUser(ctx, &userservicev1.AddUserRequest{UserId: "gopher"}); err != nil {
		return nil, err
	}
	got, err := users.GetUser(ctx, &userservicev1.GetUserRequest{UserId: "gopher"})
	if err != nil {
		return nil, err
	}
	_, missing := users.GetUser(ctx, &userservicev1.GetUserRequest{UserId: "nobody"})
	_, invalid := users.GetUser(ctx, &userservicev1.GetUserRequest{})
	return map[string]any{
		"user_id": got.User.UserId, "missing": outcomeOf(missing), "invalid": outcomeOf(invalid),
	}, nil
}

// headers calls N times with a header of SIZE bytes.
func headers(address string, arguments []string) (any, error) {
	users, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer users.channel.Close()
	size, count := number(arguments[0]), number(arguments[1])
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "x-large", strings.Repeat("x", size))
	outcomes := map[string]int{}
	for range count {
		_, err := users.ListUsers(ctx, &userservicev1.ListUsersRequest{Limit: 1})
		found := outcomeOf(err)
		outcomes[strings.Join([]string{found.Code, found.Reason, found.Field}, " ")]++
	}
	return outcomes, nil
}

// idle makes a call, leaves the connection alone for some seconds, and makes another call.
func idle(address string, arguments []string) (any, error) {
	users, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer users.channel.Close()
	request := &userservicev1.ListUsersRequest{Limit: 1}
	_, first := users.ListUsers(context.Background(), request)
	time.Sleep(time.Duration(number(arguments[0])) * time.Second)
	_, second := users.ListUsers(context.Background(), request)
	return map[string]any{
		"outcomes":    []outcome{outcomeOf(first), outcomeOf(second)},
		"connections": users.connections.Load(),
	}, nil
}

// slowStream reads the stream of all users, and works for some seconds on the first chunk.
func slowStream(address string, arguments []string) (any, error) {
	users, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer users.channel.Close()
	stream, err := users.ListUsersChunked(context.Background(), &userservicev1.ListUsersChunkedRequest{ChunkSize: 1000})
	if err != nil {
		return nil, err
	}
	seen := 0
	for first := true; ; first = false {
		var chunk *userservicev1.ListUsersChunkedResponse
		chunk, err = stream.Recv()
		if err != nil {
			break
		}
		seen += len(chunk.Users)
		if first {
			time.Sleep(time.Duration(number(arguments[0])) * time.Second)
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return map[string]any{"outcome": outcomeOf(err), "users": seen, "connections": users.connections.Load()}, nil
}

// steady makes one call after the other for some seconds, without retries.
func steady(address string, arguments []string) (any, error) {
	users, err := dial(address)
	if err != nil {
		return nil, err
	}
	defer users.channel.Close()
	outcomes := map[string]int{}
	end := time.Now().Add(time.Duration(number(arguments[0])) * time.Second)
	for time.Now().Before(end) {
		_, err := users.ListUsers(context.Background(), &userservicev1.ListUsersRequest{Limit: 1})
		outcomes[outcomeOf(err).Code]++
		time.Sleep(2 * time.Millisecond)
	}
	return map[string]any{"outcomes": outcomes, "connections": users.connections.Load()}, nil
}
