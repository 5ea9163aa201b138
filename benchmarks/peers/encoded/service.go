package main

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	pb "userservice.bench/peers/gen/userservice/v1"
)

// service is the part of userservice.v1.UserService that is measured. Its handlers return encoded responses.
var service = grpc.ServiceDesc{
	ServiceName: "userservice.v1.UserService",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{
		unary("AddUser", (*users).addUser),
		unary("GetUser", (*users).getUser),
		unary("UpdateUser", (*users).updateUser),
		unary("BatchGetUsers", (*users).batchGetUsers),
	},
	Streams: []grpc.StreamDesc{{StreamName: "ListUsersChunked", Handler: listUsersChunked, ServerStreams: true}},
}

// message is a pointer to a request.
type message[T any] interface {
	*T
	proto.Message
}

func unary[T any, M message[T]](name string, handle func(*users, context.Context, M) ([]byte, error)) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(server any, ctx context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			request := M(new(T))
			if err := decode(request); err != nil {
				return nil, err
			}
			response, err := handle(server.(*users), ctx, request)
			if err != nil {
				return nil, err
			}
			return response, nil
		},
	}
}

func listUsersChunked(server any, stream grpc.ServerStream) error {
	request := &pb.ListUsersChunkedRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return err
	}
	return server.(*users).listUsersChunked(request, stream)
}
