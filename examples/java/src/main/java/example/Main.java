package example;

import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import com.google.rpc.ErrorInfo;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.util.Iterator;
import java.util.UUID;
import java.util.concurrent.TimeUnit;
import userservice.v1.AddUserRequest;
import userservice.v1.DeleteUserRequest;
import userservice.v1.GetUserRequest;
import userservice.v1.ListUsersChunkedRequest;
import userservice.v1.ListUsersChunkedResponse;
import userservice.v1.User;
import userservice.v1.UserServiceGrpc;
import userservice.v1.UserServiceGrpc.UserServiceBlockingStub;

/** Reads and writes users with a client that protoc generated. Usage: mvn exec:java -Dexec.args=ADDRESS */
public final class Main {
  /** A batch of 1000 users can have 68 MiB; the default limit is 4 MiB. */
  private static final int MAX_MESSAGE_BYTES = 68 << 20;

  private static final int ATTEMPTS = 10;

  private Main() {}

  public static void main(String[] arguments) throws Exception {
    String address = arguments.length > 0 ? arguments[0] : "localhost:50051";
    ManagedChannel channel =
        ManagedChannelBuilder.forTarget(address)
            .usePlaintext()
            .maxInboundMessageSize(MAX_MESSAGE_BYTES)
            .keepAliveTime(10, TimeUnit.SECONDS)
            .build();
    try {
      run(UserServiceGrpc.newBlockingStub(channel));
    } finally {
      channel.shutdownNow().awaitTermination(5, TimeUnit.SECONDS);
    }
  }

  private static void run(UserServiceBlockingStub users) throws InterruptedException {
    AddUserRequest request =
        AddUserRequest.newBuilder()
            .setUserId("java-example")
            .setMetadata(Struct.newBuilder().putFields("plan", Value.newBuilder().setStringValue("pro").build()))
            .setRequestId(UUID.randomUUID().toString())
            .build();
    // A repeated request with the same request_id is applied once, so this call can be retried.
    User added = withDeadline(users).addUser(request).getUser();
    System.out.println("added " + added.getUserId());
    try {
      withDeadline(users).getUser(GetUserRequest.newBuilder().setUserId("nobody").build());
    } catch (StatusRuntimeException failure) {
      System.out.println("get nobody: " + reason(failure));
    }
    System.out.println("streamed " + countUsers(users) + " users");
    withDeadline(users)
        .deleteUser(
            DeleteUserRequest.newBuilder()
                .setUserId("java-example")
                .setRequestId(UUID.randomUUID().toString())
                .build());
  }

  private static UserServiceBlockingStub withDeadline(UserServiceBlockingStub users) {
    return users.withDeadlineAfter(10, TimeUnit.SECONDS);
  }

  /** Returns the error reason of the service, or an empty string. */
  private static String reason(StatusRuntimeException failure) {
    com.google.rpc.Status status = StatusProto.fromThrowable(failure);
    if (status == null) {
      return "";
    }
    for (com.google.protobuf.Any detail : status.getDetailsList()) {
      try {
        if (detail.is(ErrorInfo.class)) {
          return detail.unpack(ErrorInfo.class).getReason();
        }
      } catch (InvalidProtocolBufferException unreadable) {
        return "";
      }
    }
    return "";
  }

  /** Reads all users. When the stream ends early with UNAVAILABLE, it continues after the last chunk. */
  private static long countUsers(UserServiceBlockingStub users) throws InterruptedException {
    long count = 0;
    long cursor = 0;
    int failures = 0;
    while (true) {
      try {
        Iterator<ListUsersChunkedResponse> chunks =
            users.withWaitForReady().listUsersChunked(
                ListUsersChunkedRequest.newBuilder().setChunkSize(1000).setCursor(cursor).build());
        while (chunks.hasNext()) {
          ListUsersChunkedResponse chunk = chunks.next();
          count += chunk.getUsersCount();
          cursor = chunk.getNextCursor();
          failures = 0;
          if (cursor == 0) { // the last chunk
            return count;
          }
        }
      } catch (StatusRuntimeException failure) {
        failures += 1;
        if (failure.getStatus().getCode() != Status.Code.UNAVAILABLE || failures == ATTEMPTS) {
          throw failure;
        }
        Thread.sleep(200);
      }
    }
  }
}
